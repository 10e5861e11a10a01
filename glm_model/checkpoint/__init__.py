"""Checkpoints: their files, the names and values of their tensors, and how a model is read from them."""
