"""The neural network: configuration, layers, masks, positions, key-value caches, and the decoder built from them."""
