"""Trains with GLM's objective, autoregressive blank infilling (arXiv 2210.02414 section 2.3)."""
