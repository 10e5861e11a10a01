"""Writes the file that ``torch.save({"module": tensors}, file)`` writes, but tensor by tensor.

``torch.save`` needs all tensors in memory, and the archive of one rank can have 260 GB. The format is an uncompressed
zip archive: ``data.pkl`` describes the tensors, each ``data/N`` holds the bytes of one, at an offset that is a multiple
of 64. This file imports no other file of the package.
"""

import os
import pickle
import sys
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, Self
from zipfile import ZipFile, ZipInfo

import torch
from torch import Tensor

_ALIGNMENT = 64
_FORMAT_VERSION = b"3\n"
_ENTRY_DATE = (1980, 1, 1, 0, 0, 0)  # the date that torch.save writes, so that equal tensors make equal files
_STORAGES: dict[torch.dtype, Any] = {
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
    torch.float32: torch.FloatStorage,
    torch.int8: torch.CharStorage,
}
DTYPES = frozenset(_STORAGES)


class TorchArchive:
    """A file to write as a context manager: :meth:`write` every tensor once, in the order of the headers.

    Args:
        path: path of the file; it is complete and on the disk when the context ends.
        headers: the tensors to be written, on the meta device: float16, bfloat16, float32 or int8.
    """

    def __init__(self, path: Path, headers: Mapping[str, Tensor]) -> None:
        self._stem = path.stem
        self._expected = iter(enumerate(headers.items()))
        self._file = path.open("wb")
        self._zip = ZipFile(self._file, "w")
        self._add("data.pkl", _description(headers))
        self._add("byteorder", sys.byteorder.encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        with self._file:
            if error is not None:
                with suppress(OSError):
                    self._zip.close()  # the caller discards the incomplete file
                return
            assert next(self._expected, None) is None, "a tensor was not written"
            self._add("version", _FORMAT_VERSION)
            self._zip.close()
            self._file.flush()
            os.fsync(self._file.fileno())

    def write(self, name: str, tensor: Tensor) -> None:
        """Write the next tensor; name, shape and dtype must be those of its header."""
        number, (expected, header) = next(self._expected)
        assert (name, tensor.shape, tensor.dtype) == (expected, header.shape, header.dtype)
        content: Any = tensor.contiguous().view(torch.uint8).numpy()
        self._add(f"data/{number}", memoryview(content))

    def _add(self, name: str, content: bytes | memoryview) -> None:
        entry = ZipInfo(f"{self._stem}/{name}", date_time=_ENTRY_DATE)
        entry.CRC = entry.compress_size = entry.file_size = 0  # zipfile fills them in after the content is written
        start = self._file.tell() + len(entry.FileHeader(zip64=True)) + len(_padding(0))
        entry.extra = _padding(-start % _ALIGNMENT)
        with self._zip.open(entry, "w", force_zip64=True) as stream:
            stream.write(content)


def _padding(size: int) -> bytes:
    """Return the extra field of a zip entry that pads it: a header of 4 bytes and ``size`` more."""
    return b"FB" + size.to_bytes(2, "little") + b"Z" * size


class _Storage(NamedTuple):
    key: int
    kind: Any
    length: int


class _TensorStub:
    """A stand-in that pickles as a tensor with the shape and dtype of its header."""

    def __init__(self, key: int, header: Tensor) -> None:
        self._header = header
        self._storage = _Storage(key, _STORAGES[header.dtype], header.numel())

    def __reduce__(self) -> Any:
        shape, strides = tuple(self._header.shape), self._header.contiguous().stride()
        return torch._utils._rebuild_tensor_v2, (self._storage, 0, shape, strides, False, OrderedDict())


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return ("storage", obj.kind, str(obj.key), "cpu", obj.length) if isinstance(obj, _Storage) else None


def _description(headers: Mapping[str, Tensor]) -> bytes:
    """Return the content of ``data.pkl``."""
    module = {name: _TensorStub(key, header) for key, (name, header) in enumerate(headers.items())}
    content = BytesIO()
    _Pickler(content, protocol=2).dump({"module": module})
    return content.getvalue()
