"""Computes whether a model fits the GPUs at hand, without loading it: ``python -m glm_model.plan --help``."""
