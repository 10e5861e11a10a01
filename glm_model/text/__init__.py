"""Text and tokens: the tokenizer, the chat format, incremental decoding, and text that is safe for a terminal."""
