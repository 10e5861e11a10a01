"""``DST.partial``: the folder in which a conversion grows until it is whole. Imports nothing of ours.

::

    DST.partial/conversion.json   what is being converted, and how
    DST.partial/lock              held by the process at work; the system frees it if that one dies
    DST.partial/model/            becomes DST in one step

So DST is whole or not there, and whoever finds a part of it can tell that it is one.
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
    """Whether a folder is, or lies in, what a conversion has not finished."""
    return any((place / _JOURNAL).is_file() and (place / _MODEL).is_dir() for place in (folder, folder.parent))


@contextmanager
def growing_folder(target: Path, plan: dict[str, Any] | None) -> Iterator[Path]:
    """The folder to write into, which becomes ``target`` at the end.

    It still holds what an earlier run of the same plan has written there, and is empty after one of another plan.

    Args:
        target: as :func:`.files.free_folder` gives it.
        plan: what is converted, and how: whatever the files depend on, as JSON. None: start over in any case.

    Raises:
        ValueError: another process is writing the same folder, or one of its name is there that no conversion made.
    """
    partial = target.with_name(f"{target.name}.partial")
    model, journal = partial / _MODEL, partial / _JOURNAL
    partial.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(partial / _LOCK, timeout=0):
            _require_ours(partial)
            if plan is None or _read(journal) != plan:
                shutil.rmtree(model, ignore_errors=True)
                with write_through(journal) as unfinished:
                    unfinished.write_text(json.dumps(plan), encoding="utf-8")
            model.mkdir(exist_ok=True)
            try:
                yield model
            except BaseException:
                if plan is None:  # nobody would go on with it
                    shutil.rmtree(partial, ignore_errors=True)
                raise
            if target.exists():
                target.rmdir()
            model.rename(target)
            shutil.rmtree(partial, ignore_errors=True)
    except Timeout:
        raise ValueError(f"another process is writing {partial}: wait for it, or name another folder") from None


def _require_ours(partial: Path) -> None:
    """It will be removed, so nothing of anybody else may be in it; the journal comes before the model."""
    names = {path.name for path in partial.iterdir()}
    ours = {_LOCK, _JOURNAL, f"{_JOURNAL}{_UNFINISHED}"} | ({_MODEL} if _JOURNAL in names else set())
    if others := sorted(names - ours):
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
    """Gives the name to write a file under; ``path`` is there with all of it or not at all, even if power is lost."""
    unfinished = path.with_name(f"{path.name}{_UNFINISHED}")
    unfinished.touch()
    mode = unfinished.stat().st_mode
    yield unfinished
    unfinished.chmod(mode)  # safetensors makes a file of its own that others may not read
    with unfinished.open("rb+") as file:
        os.fsync(file.fileno())
    unfinished.replace(path)
