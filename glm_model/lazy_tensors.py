"""Tensors of checkpoint files that are read when they are indexed, and leave memory when they are dropped.

``safetensors`` and ``torch.load`` map whole files into memory, and what is mapped stays until the last tensor of the
file is gone. Whoever looks at every tensor once, and keeps something smaller, reads them from here.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from .checkpoint_files import read_pickle


def lazy_tensors(files: Iterable[Path]) -> dict[str, Any]:
    """By name, objects that give a tensor, or a part of it, when they are indexed: ``tensors[name][...]``.

    Memory holds what is indexed and nothing else of safetensors files; of a ``.bin`` file, the shard that was last
    indexed.

    Raises:
        CheckpointError: a damaged ``.bin`` file.
    """
    pickles = _Pickles()
    tensors: dict[str, Any] = {}
    for file in files:
        if file.suffix == ".safetensors":
            content = safe_open(file, framework="pt", backend="pread")
            tensors |= {name: content.get_slice(name) for name in content.keys()}  # noqa: SIM118
        else:
            tensors |= {name: _PickledTensor(pickles, file, name) for name in pickles.open(file)}
    return tensors


class _Pickles:
    """Keeps one file open at a time."""

    def __init__(self) -> None:
        self.file: Path | None = None
        self.tensors: dict[str, Tensor] = {}

    def open(self, file: Path) -> dict[str, Tensor]:
        if file != self.file:
            self.file, self.tensors = None, {}  # gone before the next one comes
            self.tensors = read_pickle(file)
            self.file = file
        return self.tensors


class _PickledTensor:
    def __init__(self, pickles: _Pickles, file: Path, name: str) -> None:
        self.pickles, self.file, self.name = pickles, file, name

    def __getitem__(self, index: Any) -> Tensor:
        return self.pickles.open(self.file)[self.name][index].clone()
