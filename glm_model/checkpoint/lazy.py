"""Read tensors of checkpoint files when they are indexed, and free their memory when they are dropped.

``transformers`` maps all files of a checkpoint into memory, and every page that was read stays there until the last
tensor is dropped. The tensors of this module suit code that reads each tensor once and keeps something smaller.
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
    """Return objects by name that read a tensor, or a part of it, when they are indexed: ``tensors[name][...]``.

    Args:
        stored: headers of the tensors, as :func:`.files.stored_tensors` returns them.
        kept: a function from a name to whether that tensor stays in use after others are read. It is then copied out
            of its file; otherwise it is a read-only view into the file.
    """
    pickles = _OpenPickle()
    return {name: LazyTensor(pickles, header, name, kept(name)) for name, header in stored.items()}


class LazyTensor:
    """A tensor in a file; see :func:`lazy_tensors`."""

    def __init__(self, pickles: "_OpenPickle", stored: StoredTensor, name: str, kept: bool) -> None:
        self._pickles, self._stored, self._name, self._kept = pickles, stored, name, kept

    def get_shape(self) -> list[int]:
        """Return the shape of the whole tensor, which transformers needs before it cuts the tensor."""
        return list(self._stored.shape)

    def is_floating_point(self) -> bool:
        """Return whether the dtype is floating, which transformers needs before it casts the tensor."""
        return self._stored.dtype.is_floating_point

    def __getitem__(self, index: Any) -> Tensor:
        file = self._stored.file
        if file.suffix != ".safetensors":
            part = self._pickles.open(file)[self._name][index]
            return part.clone() if self._kept else part
        return self._copy(index) if self._kept and self._stored.shape else self._view(index)

    def _view(self, index: Any) -> Tensor:
        # The file is opened once per tensor, so that its mapping ends when this tensor is dropped.
        with safe_open(self._stored.file, framework="pt") as content:
            view: Tensor = content.get_slice(self._name)[index]
            return view

    def _copy(self, index: Any) -> Tensor:
        """Return a copy of a part, made block by block so that little more than that part is in memory."""
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
    """The ``.bin`` file that was read last, kept open because opening one reads the headers of all its tensors."""

    def __init__(self) -> None:
        self._file: Path | None = None
        self._tensors: dict[str, Tensor] = {}
        self._lock = Lock()  # transformers reads in several threads

    def open(self, file: Path) -> dict[str, Tensor]:
        with self._lock:
            if file != self._file:
                self._file, self._tensors = None, {}  # freed before the next file is opened
                self._tensors = read_pickle(file)
                self._file = file
            return self._tensors
