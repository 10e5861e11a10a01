"""Writing: the decoding loop, how it chooses tokens, the streams and the published ``chat``."""
