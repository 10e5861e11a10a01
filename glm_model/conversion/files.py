"""What every command of this package does with folders and their smaller files."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from ..checkpoint_files import CONFIG

_WEIGHT_FILE = re.compile(r"(pytorch_)?model.*\.(safetensors|bin)(\.index\.json)?$")
# Of an archive of SwissArmyTransformer.
_DESCRIPTIONS = ("latest", "model_config.json")


def require_free(target: Path) -> None:
    """Raises ValueError unless a folder can be made at ``target``: nothing is there, or an empty folder."""
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(f"{target} is there already: name a new folder, or remove it first")


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
