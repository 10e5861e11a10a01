"""Decode tokens to text one by one, for front-ends: exactly, and without splitting a character.

This module depends on no model and no vocabulary; a tokenizer gives the text of each id.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from typing import Protocol

SPACE_SYMBOL = "▁"
_ONE_MARK_PER_BYTE = "glm_model.one_mark_per_byte"


class TokenSurfaces(Protocol):
    """The part of a tokenizer that a decoder needs."""

    @property
    def pad_token_id(self) -> int | None:
        """The id that shows nothing, wherever it stands."""

    @property
    def dropped_leading_spaces(self) -> float:
        """The number of space symbols that are dropped at the start of a text; `inf` if all of them are."""

    def surface(self, token_id: int) -> str | bytes:
        """Return the content of any other id: text with `▁` for a space, or one byte of a UTF-8 character."""


def _one_mark_per_byte(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\N{REPLACEMENT CHARACTER}" * (error.end - error.start), error.end


# Python marks a broken sequence once, SentencePiece marks each of its bytes.
codecs.register_error(_ONE_MARK_PER_BYTE, _one_mark_per_byte)


class IncrementalDecoder:
    """Decoder of ids to text piece by piece; each call takes time linear in the number of new ids.

    The concatenation of every `push` and the `finish` is the tokenizer's `decode_exact` of all ids. A character that
    is spelled in bytes appears with its last byte; bytes that are no UTF-8 become U+FFFD, one each.
    """

    def __init__(self, tokenizer: TokenSurfaces) -> None:
        self._surface, self._pad = tokenizer.surface, tokenizer.pad_token_id
        self._droppable_spaces = tokenizer.dropped_leading_spaces
        self._characters = codecs.getincrementaldecoder("utf-8")(_ONE_MARK_PER_BYTE)

    def push(self, ids: Iterable[int]) -> str:
        """Add ids, and return the new text that they complete; it may be empty."""
        return "".join(map(self._push_one, ids))

    def finish(self) -> str:
        """Return the rest at the end of the ids: U+FFFD for each byte of an incomplete character."""
        return self._characters.decode(b"", final=True)

    @property
    def unfinished(self) -> str:
        """The text that `finish` would return now."""
        pending, _ = self._characters.getstate()
        return "\N{REPLACEMENT CHARACTER}" * len(pending)

    def _push_one(self, token_id: int) -> str:
        if token_id == self._pad:
            return ""
        surface = self._surface(token_id)
        if isinstance(surface, bytes):
            self._droppable_spaces = 0
            return self._characters.decode(surface)
        # Any other piece ends a run of bytes, even one that shows nothing.
        return self.finish() + self._text(surface)

    def _text(self, surface: str) -> str:
        if self._droppable_spaces and surface.startswith(SPACE_SYMBOL):
            surface = surface[1:]
            self._droppable_spaces -= 1
        if surface:
            self._droppable_spaces = 0
        return surface.replace(SPACE_SYMBOL, " ")
