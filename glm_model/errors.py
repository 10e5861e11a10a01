"""The errors this package raises for bad input: one tree, every leaf a `ValueError`.

Each message names the file, field or value at fault and says what to do about it.
"""

from typing import Literal


class GLMError(ValueError):
    """Base of all errors that the input causes, never a fault in this package."""


class CheckpointError(GLMError):
    """A checkpoint's configuration or weights are missing, damaged or of another model."""


class TokenizerError(GLMError):
    """A tokenizer's files, or the messages given to its chat template, cannot be used."""


class UnsupportedError(GLMError):
    """The request is well formed, but a bidirectional-prompt model cannot serve it correctly."""


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
