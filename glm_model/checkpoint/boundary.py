"""Turn whatever a damaged checkpoint makes a reader raise into one sentence that names the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError
from pathlib import Path

import torch
from safetensors import SafetensorError

from ..errors import CheckpointError, GLMError, one_line

DAMAGED = "Download it again; its size should be the one shown by the repository."
_NOT_THE_CHECKPOINT = (GLMError, MemoryError, torch.OutOfMemoryError, ImportError, NotImplementedError)


@contextmanager
def reading(place: str | Path) -> Iterator[None]:
    """Raise CheckpointError, with the original error as its cause, for all that reading ``place`` raises meanwhile.

    Libraries raise TypeError, KeyError, RecursionError and others for content that they did not expect, and name no
    file. Errors of this package pass, and so do those of the machine: too little memory, a library that is missing.

    Args:
        place: the file or folder that is read, for the message.
    """
    try:
        yield
    except _NOT_THE_CHECKPOINT:
        raise
    except OSError as error:
        reason = error.strerror or one_line(str(error), 200)
        raise CheckpointError(f"{error.filename or place} cannot be read: {reason}.") from error
    except RecursionError as error:
        raise CheckpointError(f"{place} is nested too deeply to be read. {DAMAGED}") from error
    except Exception as error:
        reason = one_line(f"{type(error).__name__}: {error}", 300).rstrip(".")
        raise CheckpointError(f"{place} cannot be used ({reason}). It is damaged, or of another program.") from error


@contextmanager
def reading_by_transformers(place: object) -> Iterator[None]:
    """Do as :func:`reading` for errors that only a file can cause; others may be of the caller's arguments.

    The files were looked at before, so what is left are files that changed meanwhile, or damage that headers hide.
    """
    try:
        yield
    except (
        KeyError,
        IndexError,
        AttributeError,
        OverflowError,
        RecursionError,
        SafetensorError,
        JSONDecodeError,
    ) as error:
        with reading(str(place)):
            raise error
