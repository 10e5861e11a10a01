"""Products with packed weights: how they are packed, and the kernels that multiply with them. Knows tensors only."""
