"""Define the errors that this package raises for bad input, as one tree under `ValueError`.

::

    ValueError
    +-- GLMError                          the input is at fault, not this package
        +-- CheckpointError               a checkpoint is missing, damaged or of another model
        +-- TokenizerError                a vocabulary, or messages for the chat template, cannot be used
        +-- UnsupportedError              the models cannot serve the request correctly
        +-- FillError                     a text cannot be filled as it is
        +-- app.serving.engine.QueueFull  too many requests wait for an answer
        +-- app.serving.engine.EngineClosed
                                          the engine takes no more requests

    Exception
    +-- kernels.build.BuildError          the native kernel cannot be built or used; no error of the input

Each message names the file, field or value at fault and says what to do about it.
"""

from typing import Literal

_LONGEST = 1000  # characters of a message; names in a damaged file may have millions


class GLMError(ValueError):
    """Base of all errors that the input causes, never a fault in this package.

    The message is one line of printable characters, whatever text of a file is in it, so it can be shown on a terminal
    and written into a log.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))


def one_line(text: str, longest: int = _LONGEST) -> str:
    r"""Return a text without line breaks, control characters and reordering marks, cut in its middle if it is long.

    White space becomes a space, and other characters that cannot be printed are written as in Python (``\x1b``).
    The start of a message names a file, its end the remedy, so the middle is what can be missed.
    """
    shown = "".join(
        character if character.isprintable() else " " if character.isspace() else ascii(character)[1:-1]
        for character in _cut(text, longest)
    )
    return _cut(shown, longest)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest * 3 // 5]} [...] {text[-longest * 3 // 10 :]}"


class CheckpointError(GLMError):
    """A checkpoint's configuration or weights are missing, damaged or of another model."""


class TokenizerError(GLMError):
    """A tokenizer's files, or the messages or the history of a conversation, cannot be used."""


class UnsupportedError(GLMError):
    """A request is well formed, but a model with a bidirectional prompt cannot serve it correctly."""


class FillError(GLMError):
    """A text cannot be filled as it is.

    Args:
        message: one sentence with the remedy.
        kind: the reason, for programs that show a message in another language: "no_text", "too_long" (in tokens) or
            "too_many_blanks".
        count: the number of tokens or blanks in the text.
        limit: the largest number allowed.
    """

    def __init__(
        self, message: str, kind: Literal["no_text", "too_long", "too_many_blanks"], count: int = 0, limit: int = 0
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.count = count
        self.limit = limit
