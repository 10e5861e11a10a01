"""Bound what unpickling a file may cost; the pickle of a checkpoint only lists its tensors."""

import pickletools
import zipfile
from pathlib import Path

from ..errors import CheckpointError
from .boundary import DAMAGED

_MOST_BYTES = 4 << 20  # 15 times the list of GLM-130B's tensors
_MOST_STEPS = 3_000_000
# torch lets a pickle call this, which makes memory of any size out of a number.
_ALLOCATES = b"bytearray"


def require_small_archive(file: Path) -> None:
    """Raise CheckpointError if the pickle in a zip archive is too large or allocates.

    A pickle of a few MB could fill gigabytes, as 50 million marks do, each of which becomes a list.
    """
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if entry.filename.lower().endswith("data.pkl"):  # torch does not tell capital letters apart
                _require_small(file, entry.file_size)
                entry.CRC = None  # type: ignore[assignment]  # an archive may have been saved without checksums
                _require_harmless(file, archive.read(entry))


def require_small_pickle(file: Path) -> None:
    """Raise CheckpointError if a file that begins with its pickle, as before torch 1.6, makes too much of it."""
    with file.open("rb") as stream:
        start = stream.read(_MOST_BYTES)
    _require_harmless(file, start[: _end_of_pickles(file, start)])


def _require_small(file: Path, size: int) -> None:
    if size > _MOST_BYTES:
        raise CheckpointError(
            f"{file} lists its tensors in {size:,} bytes, and no checkpoint needs more than {_MOST_BYTES:,}. {DAMAGED}"
        )


def _require_harmless(file: Path, content: bytes) -> None:
    if _ALLOCATES in content:
        raise CheckpointError(f"{file} holds a Python object besides tensors (bytearray), so it is no checkpoint.")


def _end_of_pickles(file: Path, start: bytes) -> int:
    """Return where the pickles at the start of a file end: magic number, version, system, tensors and their keys."""
    place = 0
    steps = 0
    for _ in range(5):
        try:
            for _, _, position in pickletools.genops(start[place:]):
                steps += 1
                last = place + (position or 0)
                if steps > _MOST_STEPS:
                    _require_small(file, file.stat().st_size)
        except CheckpointError:
            raise
        except Exception:  # cut, or no pickle: torch says so
            _require_small(file, file.stat().st_size if len(start) == _MOST_BYTES else 0)
            return len(start)
        place = last + 1
    return place
