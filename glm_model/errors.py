"""The errors this package raises for bad input: one tree, every leaf a `ValueError`.

Each message names the file, field or value at fault and says what to do about it.
"""


class GLMError(ValueError):
    """Base of all errors that the input causes, never a fault in this package."""


class CheckpointError(GLMError):
    """A checkpoint's configuration or weights are missing, damaged or of another model."""


class TokenizerError(GLMError):
    """A tokenizer's files, or the messages given to its chat template, cannot be used."""


class UnsupportedError(GLMError):
    """The request is well formed, but a bidirectional-prompt model cannot serve it correctly."""
