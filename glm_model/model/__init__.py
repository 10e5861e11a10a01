"""The network: configuration, layers, masks and positions, caches, and the decoder made of them."""
