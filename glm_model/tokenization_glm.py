"""The tokenizer under the name that transformers' files and pickles use; see ``text.tokenizer``."""

from .text.tokenizer import ChatGLMTokenizer

__all__ = ["ChatGLMTokenizer"]
