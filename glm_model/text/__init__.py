"""Text and tokens: the tokenizer, the chat format, text as it comes, and what is safe to show."""
