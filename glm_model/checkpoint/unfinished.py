"""Write a converted folder in ``DST.partial`` until it is complete; this module imports nothing of the package.

::

    DST.partial/conversion.json   what is being converted, and how
    DST.partial/lock              held by the converting process; the system frees it if that process dies
    DST.partial/model/            renamed to DST when it is complete

DST is therefore either complete or absent, and an incomplete folder can be recognized.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

_JOURNAL = "conversion.json"
_LOCK = "lock"
_MODEL = "model"
_UNFINISHED = ".tmp"


def is_unfinished(folder: Path) -> bool:
    """Return whether a folder is, or is inside, the folder of an unfinished conversion."""
    return any((place / _JOURNAL).is_file() and (place / _MODEL).is_dir() for place in (folder, folder.parent))


def partial_folder(target: Path) -> Path:
    """Return the folder in which ``target`` grows."""
    return target.with_name(f"{target.name}.partial")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an error of the operating system the name of a file, if it has none, as with a disk that is full."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def growing_folder(target: Path, plan: dict[str, Any] | None) -> Iterator[Path]:
    """Yield the folder to write into, and rename it to ``target`` at the end.

    If an earlier run had the same plan, the folder still holds the files of that run; otherwise it is empty.

    Args:
        target: the path of the finished folder, as :func:`glm_model.conversion.files.free_folder` returns it.
        plan: everything that the files depend on (source and options), as JSON; None always starts over.

    Raises:
        ValueError: another process is writing the same folder, or a folder of that name was not made by a conversion.
    """
    partial = partial_folder(target)
    model, journal = partial / _MODEL, partial / _JOURNAL
    partial.mkdir(parents=True, exist_ok=True)
    try:
        with naming(partial), FileLock(partial / _LOCK, timeout=0):
            _require_ours(partial)
            try:
                if plan is None or _read(journal) != plan:
                    if model.exists():
                        shutil.rmtree(model)  # what could not be removed would be taken for a part of this conversion
                    with write_through(journal) as unfinished:
                        unfinished.write_text(json.dumps(plan), encoding="utf-8")
                model.mkdir(exist_ok=True)
                yield model
            except BaseException:
                if plan is None:  # no later run could continue it
                    shutil.rmtree(partial, ignore_errors=True)
                raise
            if target.exists():
                target.rmdir()
            model.rename(target)
            shutil.rmtree(partial, ignore_errors=True)
    except Timeout:
        raise ValueError(f"another process is writing {partial}: wait for it, or name another folder") from None


def _require_ours(partial: Path) -> None:
    """Raise ValueError if the folder, which will be removed, holds files that no conversion has written.

    The journal is written before the model's folder is made.
    """
    names = {path.name for path in partial.iterdir()}
    ours = {_LOCK, _JOURNAL, f"{_JOURNAL}{_UNFINISHED}"} | ({_MODEL} if _JOURNAL in names else set())
    # No conversion makes a link, and what it leads to must not be removed.
    strange = {
        path.name
        for path in partial.iterdir()
        if path.is_symlink() or not (path.is_dir() if path.name == _MODEL else path.is_file())
    }
    if others := sorted((names - ours) | strange):
        raise ValueError(
            f"{partial} holds {others[0]}, which is of no conversion: move it away, or name another folder"
        )


def _read(journal: Path) -> Any:
    try:
        return json.loads(journal.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@contextmanager
def write_through(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to ``path`` at the end.

    ``path`` then either holds the complete file or does not exist, even after a power failure.
    """
    unfinished = path.with_name(f"{path.name}{_UNFINISHED}")
    with naming(path):
        unfinished.touch()
        mode = unfinished.stat().st_mode
        yield unfinished
        unfinished.chmod(mode)  # safetensors replaces the file by one that other users may not read
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
