"""The published text of an answer that grows token by token: `tokenizer.decode` of all ids so far, without the work.

The original decodes the whole answer anew after every token. Here only the new token is decoded; what the published
decoding does to a text as a whole (white space spelled over several pieces, the clean-up) stays that.
"""

from typing import Any

from .incremental_decoder import IncrementalDecoder
from .sentencepiece_text import decode_white_space
from .tokenizer import ChatGLMTokenizer


class DecodeStream:
    """Gives `tokenizer.decode(ids)` for the ids so far; a tokenizer of another class is simply asked.

    Args:
        tokenizer: anything with a `decode`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._pieces = IncrementalDecoder(tokenizer) if type(tokenizer) is ChatGLMTokenizer else None
        self._text = ""

    def push(self, token_id: int) -> str:
        """The text of all ids so far, with this one."""
        self._ids.append(token_id)
        if self._pieces is None or token_id in self._tokenizer.added_tokens_decoder:
            self._pieces = None  # an added token has spaces and white-space rules of its own around it
            return str(self._tokenizer.decode(self._ids))
        self._text += self._pieces.push([token_id])
        text = decode_white_space(self._text + self._pieces.unfinished)
        cleans = self._tokenizer.clean_up_tokenization_spaces
        return self._tokenizer.clean_up_tokenization(text) if cleans else text
