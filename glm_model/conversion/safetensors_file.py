"""Writes the same bytes as ``safetensors.torch.save_file``, but tensor by tensor.

The library needs all tensors of a file in memory, and a file can have 5 GB. The format is: the length of the header (8
bytes, little endian), the header as JSON, padded with spaces to a multiple of 8, then the tensors' bytes without gaps.
This file imports no other file of the package.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

_ALIGNMENT = 8
# In the library's order: the widest first, so that every tensor is aligned.
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int8: "I8"}


class SafetensorsFile:
    """A file to write as a context manager: :meth:`write` every tensor once, in any order.

    Args:
        path: path of the file; it is complete when the context ends, but the caller must flush it to the disk.
        headers: the tensors to be written, on the meta device: float32, bfloat16, float16 or int8.
    """

    def __init__(self, path: Path, headers: Mapping[str, Tensor]) -> None:
        self._headers = dict(headers)
        header, self._starts = _layout(headers)
        self._file = path.open("wb")
        self._file.write(header)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        assert error is not None or not self._headers, "a tensor was not written"

    def write(self, name: str, tensor: Tensor) -> None:
        """Write one tensor; shape and dtype must be those of its header."""
        header = self._headers.pop(name)
        assert (tensor.shape, tensor.dtype) == (header.shape, header.dtype)
        content: Any = tensor.contiguous().view(-1).view(torch.uint8).numpy()
        self._file.seek(self._starts[name])
        self._file.write(memoryview(content))


def _layout(headers: Mapping[str, Tensor]) -> tuple[bytes, dict[str, int]]:
    """Return the file's first bytes, which are the header with its length, and the offset of each tensor."""
    order = list(_DTYPES)
    described: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    starts, end = {}, 0
    for name, tensor in sorted(headers.items(), key=lambda item: (order.index(item[1].dtype), item[0])):
        starts[name], end = end, end + tensor.nbytes
        offsets = [starts[name], end]
        described[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
    text = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    start = len(text).to_bytes(8, "little") + text
    return start, {name: len(start) + offset for name, offset in starts.items()}
