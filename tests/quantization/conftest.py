"""Float checkpoints to pack: the one the golden sets were made from, and one with a tokenizer."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.checkpoints import write_json
from tests.loading.conftest import Checkpoint
from tests.loading.conftest import checkpoint as chat  # noqa: F401  (a fixture)
from tests.quantization.data import INT8, SOURCE


@pytest.fixture
def source(tmp_path: Path) -> Checkpoint:
    """The FP16 weights with their config.json; no tokenizer belongs to them."""
    folder = tmp_path / "source"
    folder.mkdir()
    made = Checkpoint(folder, load_file(SOURCE))
    config = json.loads((INT8.folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", {**config, "quantization_bit": 0})
    made.write()
    return made


def packed_copy(folder: Path, packed: Path) -> Checkpoint:
    """A packed golden set in a folder of its own, to be damaged."""
    folder.mkdir()
    made = Checkpoint(folder, load_file(packed / "model.safetensors"))
    write_json(folder / "config.json", json.loads((packed / "config.json").read_text(encoding="utf-8")))
    made.write()
    return made
