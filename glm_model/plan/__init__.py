"""Whether a model fits the GPUs at hand, before anything is loaded: ``python -m glm_model.plan --help``."""
