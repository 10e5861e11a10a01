"""What every command of this package does with folders and their smaller files."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ..checkpoint.files import CONFIG

# Under whatever name: an index may name shards as it likes, and a training leaves its own state beside them.
_WEIGHT_FILE = re.compile(r".*\.(safetensors|bin|pt|pth|ckpt|h5|msgpack)(\.index\.json)?$", re.IGNORECASE)
# Of an archive of SwissArmyTransformer.
_DESCRIPTIONS = ("latest", "model_config.json")


def free_folder(target: str | Path) -> Path:
    """Where ``target`` leads, as an absolute path; links are followed, so that they stay.

    Raises:
        ValueError: no folder can be made there: something is, other than an empty folder that can be replaced.
    """
    place = Path(target).resolve()
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        raise ValueError(f"{target} is there already: name a new folder, or remove it first")
    if os.path.ismount(place):
        raise ValueError(f"{target} is where a disk begins and cannot be replaced: name a new folder in it")
    return place


def require_space(folder: Path, needed: int) -> None:
    """Raises ValueError if so many bytes more do not fit on a folder's disk."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(f"{folder} needs {in_words(needed)} more, but its disk has {in_words(free)} free")


def in_words(size: int) -> str:
    """A number of bytes: 3.96MB."""
    return str(tqdm.format_sizeof(size, "B"))


def copy_other_files(source: Path, folder: Path) -> None:
    """Tokenizer, model card, licence and published code; not what belongs to the weights or to a version control."""
    for file in source.iterdir():
        if (
            file.is_file()
            and file.name not in (CONFIG, *_DESCRIPTIONS)
            and not file.name.startswith(".")
            and not _WEIGHT_FILE.match(file.name)
        ):
            shutil.copyfile(file, folder / file.name)


def write_json(path: Path, content: Any) -> None:
    """Indented, with Chinese as it is, and a newline at the end."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
