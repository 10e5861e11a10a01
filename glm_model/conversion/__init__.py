"""Converts checkpoints: GLM-130B's own archives to and from the Hugging Face layout, float weights to INT8 or INT4."""
