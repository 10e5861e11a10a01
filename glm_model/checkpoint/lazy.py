"""Tensors of checkpoint files that are read when they are indexed, and leave memory when they are dropped.

``transformers`` maps all files of a checkpoint into memory, and what was looked at stays there until the last tensor is
dropped. Whoever looks at every tensor once, and keeps something smaller, reads them from here.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from safetensors import safe_open
from torch import Tensor

from .files import StoredTensor, read_pickle

_BLOCK_BYTES = 8 << 20


def lazy_tensors(stored: Mapping[str, StoredTensor], kept: Callable[[str], bool]) -> dict[str, "LazyTensor"]:
    """Return, by name, objects that give a tensor, or a part of it, when they are indexed: ``tensors[name][...]``.

    Args:
        stored: headers of the tensors, as :func:`.files.stored_tensors` gives them.
        kept: whether the tensor of a name will be in use after others were read. Then it is copied out of its file;
            otherwise it is a view into the file, read only.
    """
    pickles = _OpenPickle()
    return {name: LazyTensor(pickles, header, name, kept(name)) for name, header in stored.items()}


class LazyTensor:
    """A tensor in a file; see :func:`lazy_tensors`."""

    def __init__(self, pickles: "_OpenPickle", stored: StoredTensor, name: str, kept: bool) -> None:
        self._pickles, self._stored, self._name, self._kept = pickles, stored, name, kept

    def get_shape(self) -> list[int]:
        """Of the whole tensor; transformers asks before it cuts."""
        return list(self._stored.shape)

    def is_floating_point(self) -> bool:
        """As of a tensor; transformers asks before it casts."""
        return self._stored.dtype.is_floating_point

    def __getitem__(self, index: Any) -> Tensor:
        file = self._stored.file
        if file.suffix != ".safetensors":
            part = self._pickles.open(file)[self._name][index]
            return part.clone() if self._kept else part
        return self._copy(index) if self._kept and self._stored.shape else self._view(index)

    def _view(self, index: Any) -> Tensor:
        # Opened anew for each tensor, the file is mapped as long as this one is in use.
        with safe_open(self._stored.file, framework="pt") as content:
            view: Tensor = content.get_slice(self._name)[index]
            return view

    def _copy(self, index: Any) -> Tensor:
        """Block by block, so that little more is in memory than what is asked for."""
        rows, *others = index if isinstance(index, tuple) else (index,)
        start, stop, _ = (rows if isinstance(rows, slice) else slice(None)).indices(self._stored.shape[0])
        row_bytes = self._stored.dtype.itemsize * math.prod(self._stored.shape[1:])
        step = max(1, _BLOCK_BYTES // max(1, row_bytes))
        whole: Tensor | None = None
        for first in range(start, stop, step):
            last = min(first + step, stop)
            block = self._view((slice(first, last), *others))
            if whole is None:
                whole = block.new_empty(stop - start, *block.shape[1:])
            whole[first - start : last - start] = block
        return self._view(index).clone() if whole is None else whole


class _OpenPickle:
    """One ``.bin`` file at a time, kept open: to open it means to read what all of its tensors are."""

    def __init__(self) -> None:
        self._file: Path | None = None
        self._tensors: dict[str, Tensor] = {}
        self._lock = Lock()  # transformers reads in several threads

    def open(self, file: Path) -> dict[str, Tensor]:
        with self._lock:
            if file != self._file:
                self._file, self._tensors = None, {}  # gone before the next one comes
                self._tensors = read_pickle(file)
                self._file = file
            return self._tensors
