"""Decode an answer that grows token by token to the published text, in less time than decoding all ids again.

The original decodes the whole answer again after every token. Here only the new token is decoded. The steps of the
published decoding that work on the text as a whole (white space spelled over several pieces, the clean-up of spaces)
are still applied to the whole text.
"""

from typing import Any

from .incremental_decoder import IncrementalDecoder
from .sentencepiece_text import decode_white_space
from .tokenizer import ChatGLMTokenizer


class PublishedTextStream:
    """The text `tokenizer.decode(ids)` of ids that are added one by one.

    Args:
        tokenizer: any tokenizer with a `decode`; only a `ChatGLMTokenizer` is decoded token by token.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._pieces = IncrementalDecoder(tokenizer) if type(tokenizer) is ChatGLMTokenizer else None
        self._text = ""

    def push(self, token_id: int) -> str:
        """Add an id, and return the text of all ids so far."""
        self._ids.append(token_id)
        if self._pieces is None or token_id in self._tokenizer.added_tokens_decoder:
            self._pieces = None  # around an added token other rules of white space apply: decode all ids from here on
            return str(self._tokenizer.decode(self._ids))
        self._text += self._pieces.push([token_id])
        text = decode_white_space(self._text + self._pieces.unfinished)
        cleans = self._tokenizer.clean_up_tokenization_spaces
        return self._tokenizer.clean_up_tokenization(text) if cleans else text
