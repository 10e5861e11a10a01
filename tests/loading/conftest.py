"""A copy of the golden chat checkpoint, its first layers, that a test may damage; and what was logged meanwhile."""

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from tests.checkpoints import write_json, write_weights
from tests.golden.data import CHAT

LAYERS = 4
_KEPT = ("config.json", "ice_text.model", "tokenizer_config.json")


@dataclass
class Checkpoint:
    """A whole folder in the published layout, and the tensors in it by their published names."""

    folder: Path
    tensors: dict[str, Tensor]

    @property
    def config(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        return content

    def configure(self, **fields: Any) -> None:
        write_json(self.folder / "config.json", {**self.config, **fields})

    def write(self, file_format: str = "safetensors", shards: int = 1) -> None:
        """Replace the weights of the folder by `tensors`."""
        for file in (*self.folder.glob("*model*.bin*"), *self.folder.glob("model*.safetensors*")):
            file.unlink()
        write_weights(self.folder, self.tensors, file_format, shards)


@pytest.fixture
def checkpoint(tmp_path: Path, golden: Path) -> Checkpoint:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in _KEPT:
        shutil.copyfile(golden / CHAT / name, folder / name)
    tensors = load_file(golden / CHAT / "model.safetensors")
    dropped = tuple(f"transformer.layers.{layer}." for layer in range(LAYERS, 28))
    made = Checkpoint(folder, {name: tensor for name, tensor in tensors.items() if not name.startswith(dropped)})
    made.configure(num_layers=LAYERS)
    made.write()
    return made


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """Also what transformers logs, which keeps it from the root logger."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    return caplog
