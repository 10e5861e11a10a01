"""Why a text cannot be filled."""

from typing import Literal

from ..errors import GLMError


class FillError(GLMError):
    """A text that cannot be filled as it is.

    Args:
        message: a sentence with the remedy.
        kind: for a program that says it in another language: "no_text", "too_long" (tokens) or "too_many_blanks".
        count: what the text has of them.
        limit: what it may have.
    """

    def __init__(
        self, message: str, kind: Literal["no_text", "too_long", "too_many_blanks"], count: int = 0, limit: int = 0
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.count = count
        self.limit = limit
