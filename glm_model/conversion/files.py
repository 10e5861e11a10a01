"""Handles target folders, disk space and the small files of a checkpoint, for every conversion."""

import errno
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..checkpoint.files import CONFIG
from ..checkpoint.unfinished import partial_folder

# Weights by extension, because an index may give shards any name and a training run leaves its own state beside them.
_WEIGHT_FILE = re.compile(r".*\.(safetensors|bin|pt|pth|ckpt|h5|msgpack)(\.index\.json)?$", re.IGNORECASE)
# Files that describe an archive of SwissArmyTransformer.
_DESCRIPTIONS = ("latest", "model_config.json")


def free_folder(target: str | Path, source: str | Path) -> Path:
    """Return ``target`` as an absolute path with links followed, so that a link is kept and its goal written.

    Args:
        target: the folder to make.
        source: the folder that is converted; the conversion must neither write into it nor remove it.

    Raises:
        ValueError: ``target`` exists and is not an empty folder, is a mount point, a link that leads to itself or a
            folder inside ``source``; or ``source`` is in the folder of an unfinished conversion to ``target``.
    """
    place, origin = _resolved(target), _resolved(source)
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        raise ValueError(f"{target} is there already: name a new folder, or remove it first")
    if os.path.ismount(place):
        raise ValueError(f"{target} is where a disk begins and cannot be replaced: name a new folder in it")
    if origin in place.parents:
        raise ValueError(f"{target} is inside {source}, which is to be converted: name a folder outside of it")
    if (partial := partial_folder(place)) in (origin, *origin.parents):
        raise ValueError(
            f"{source} is in {partial}, which this conversion replaces: move it elsewhere, or name another folder"
        )
    return place


def _resolved(path: str | Path) -> Path:
    """Return an absolute path with links followed. Raise ValueError if a link leads back to itself."""
    try:
        place = Path(path).resolve()
    except RuntimeError:  # of Python before 3.13; later ones return the link
        place = None
    if place is None or place.is_symlink():
        raise ValueError(f"{path} is a link that leads back to itself: remove it, or name another folder")
    return place


def require_space(folder: Path, needed: int) -> None:
    """Raise ValueError if the disk of a folder has fewer than ``needed`` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(f"{folder} needs {in_words(needed)} more, but its disk has {in_words(free)} free")


def in_words(size: int) -> str:
    """Return a number of bytes as text with a decimal unit, such as 3.96MB."""
    return str(tqdm.format_sizeof(size, "B"))


def copy_other_files(source: Path, folder: Path) -> None:
    """Copy tokenizer, model card, licence and published code; no configuration, no weights, no hidden files."""
    for file in source.iterdir():
        if (
            file.is_file()
            and file.name not in (CONFIG, *_DESCRIPTIONS)
            and not file.name.startswith(".")
            and not _WEIGHT_FILE.match(file.name)
        ):
            _copy(file, folder / file.name)


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        if error.errno == errno.ENOSPC:  # shutil names the source
            error.filename, error.filename2 = str(target), None
        raise


def write_json(path: Path, content: Any) -> None:
    """Write JSON in UTF-8, indented, with characters unescaped and a newline at the end."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
