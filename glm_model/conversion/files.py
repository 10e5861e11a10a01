"""Handles target folders, disk space and the small files of a checkpoint, for every conversion."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..checkpoint.files import CONFIG

# Weights by extension, because an index may give shards any name and a training run leaves its own state beside them.
_WEIGHT_FILE = re.compile(r".*\.(safetensors|bin|pt|pth|ckpt|h5|msgpack)(\.index\.json)?$", re.IGNORECASE)
# Files that describe an archive of SwissArmyTransformer.
_DESCRIPTIONS = ("latest", "model_config.json")


def free_folder(target: str | Path) -> Path:
    """Return ``target`` as an absolute path with links followed, so that a link is kept and its goal written.

    Raises:
        ValueError: ``target`` exists and is not an empty folder, or is a mount point.
    """
    place = Path(target).resolve()
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        raise ValueError(f"{target} is there already: name a new folder, or remove it first")
    if os.path.ismount(place):
        raise ValueError(f"{target} is where a disk begins and cannot be replaced: name a new folder in it")
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
            shutil.copyfile(file, folder / file.name)


def write_json(path: Path, content: Any) -> None:
    """Write JSON in UTF-8, indented, with characters unescaped and a newline at the end."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
