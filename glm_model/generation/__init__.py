"""Generation of text: the decoding loop, the choice of tokens, streams, and the published ``chat``."""
