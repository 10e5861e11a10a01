"""Reads the tensors of a file of weights one by one, and checks each byte while it is read.

Memory holds the tensor that is read, and of a pickle that is no zip archive (torch before 1.6) the whole file. No file
is mapped, because one that is cut off while it is mapped ends the process by a signal.

What is noticed, by the format of the file:

- zip archive of ``torch.save``: every changed bit of a tensor or of the description, by the CRC-32 of its entry. Bits
  of entries that no tensor uses are not read.
- safetensors, a pickle that is no zip archive, an archive without checksums: they carry none, so a changed bit is
  noticed only if it damages the structure or makes a value NaN or infinite.
- all: values that are NaN or infinite, unless they are allowed; and that the file was changed or replaced between two
  reads, by its inode, size and times.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checkpoint.boundary import reading
from ..checkpoint.files import is_archive, require_content, stored_tensors, unpickle
from ..checkpoint.tensor_checks import is_finite
from ..checkpoint.torch_zip import TorchZip
from ..checkpoint.unfinished import naming
from ..errors import CheckpointError

_BLOCK_BYTES = 1 << 20  # read and summed at once, so that the sum finds the bytes in the processor's cache
_SAMPLE_BYTES = 4096

Select = Callable[[Path, Any], dict[str, Tensor]]
"""A function from a file and what ``torch.save`` stored in it to its tensors by name; it may raise CheckpointError."""


class Identity(NamedTuple):
    """What is different for another file, and for the same file after it was written."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Identity":
        """Return the identity of the file with this status."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class WeightFile:
    """A file of weights, of any of the three formats; see :func:`open_weights`.

    Attributes:
        path: its path.
        headers: the tensors by name, without their values: only shape and dtype may be looked at.
        facts: numbers and texts that ``torch.save`` stored beside the tensors, by name.
        root: the name that the file had when it was written, without its suffix; None if it does not tell.
    """

    def __init__(self, path: Path, identity: Identity, allow_non_finite: bool) -> None:
        self.path = path
        self.headers: Mapping[str, Tensor] = {}
        self.facts: dict[str, int | str] = {}
        self.root: str | None = None
        self._identity, self._allow_non_finite = identity, allow_non_finite

    def read(self, name: str) -> Tensor:
        """Return a new tensor with the values.

        Raises:
            CheckpointError: the bytes do not match their checksum, a value is NaN or infinite though that is not
                allowed, or the file was changed since it was opened.
        """
        with reading(self.path):
            tensor = self._read(name)
        if not (self._allow_non_finite or is_finite(tensor)):
            raise CheckpointError(
                f"{self.path}: {name} holds values that are NaN or infinite. The file is damaged, or the weights were "
                "broken before they were saved; --allow-non-finite converts them all the same."
            )
        return tensor

    def sample(self, name: str) -> bytes:
        """Return the first bytes of a tensor, unchecked, to compare two tensors without reading them."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Return a digest of the content. Every byte is read for it if the file carries no checksums."""
        with self.path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            self._require_unchanged(stream.fileno())
        return digest

    def _read(self, name: str) -> Tensor:
        raise NotImplementedError

    def _bytes(self, name: str, offset: int, size: int, crc: int | None = None) -> Tensor:
        """Return bytes of the file as uint8 [size]; compare them with ``crc`` unless it is None."""
        content = torch.empty(size, dtype=torch.uint8)
        values: Any = content.numpy()
        view = memoryview(values)
        found = 0
        with naming(self.path), self.path.open("rb", buffering=0) as file:
            for start in range(0, size, _BLOCK_BYTES):
                block = view[start : start + _BLOCK_BYTES]
                self._fill(file.fileno(), block, offset + start)
                if crc is not None:
                    found = zlib.crc32(block, found)
            self._require_unchanged(file.fileno())
        if crc is not None:
            self._require_sum(name, found, crc)
        return content

    def _fill(self, file: int, block: memoryview, offset: int) -> None:
        filled = 0
        while filled < len(block):
            count = os.preadv(file, [block[filled:]], offset + filled)
            if count == 0:
                self._require_unchanged(file)
                raise CheckpointError(f"{self.path} is truncated. Download it again.")
            filled += count

    def _require_sum(self, name: str, found: int, crc: int) -> None:
        if found != crc:
            raise CheckpointError(
                f"{self.path}: the bytes of {name} do not match their checksum (CRC-32), so the file is damaged. "
                "Download it again."
            )

    def _require_unchanged(self, file: int) -> None:
        if Identity.of(os.fstat(file)) != self._identity:
            raise CheckpointError(_changed(self.path))


class _SafetensorsWeights(WeightFile):
    def __init__(self, path: Path, identity: Identity, allow_non_finite: bool) -> None:
        super().__init__(path, identity, allow_non_finite)
        stored = stored_tensors([path])  # raises an error for whatever is wrong with the header
        self.headers = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") for name, tensor in stored.items()
        }
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            self._described: dict[str, Any] = json.loads(stream.read(length))
        self._start = 8 + length

    def _read(self, name: str) -> Tensor:
        first, last = self._described[name]["data_offsets"]
        content = self._bytes(name, self._start + first, last - first)
        return content.view(self.headers[name].dtype).view(self.headers[name].shape)


class _Place(NamedTuple):
    """Where an archive holds a tensor: a storage, and the tensor's bytes in it, which may be a part of them."""

    offset: int
    size: int
    crc: int | None
    first: int
    last: int


class _ZipWeights(WeightFile):
    def __init__(self, path: Path, identity: Identity, allow_non_finite: bool, select: Select) -> None:
        super().__init__(path, identity, allow_non_finite)
        self._zip = TorchZip(path)
        content = unpickle(path, map_location="meta")
        self.headers, self.facts, self.root = select(path, content), _facts(content), self._zip.root
        self._places = {name: self._place(name, header) for name, header in self.headers.items()}
        self._checked: set[int] = set()  # offsets of storages that several tensors share

    def sample(self, name: str) -> bytes:
        """Return the first bytes of a tensor."""
        place = self._places[name]
        size = min(place.last - place.first, _SAMPLE_BYTES)
        return self._bytes(name, place.offset + place.first, size).numpy().tobytes()

    def fingerprint(self) -> str:
        """Return a digest of all checksums; of the whole content if there are none."""
        return self._zip.fingerprint() if self._zip.has_checksums else super().fingerprint()

    def _place(self, name: str, header: Tensor) -> _Place:
        storage = header.untyped_storage()
        offset, size = getattr(storage, "_checkpoint_offset", None), storage.nbytes()
        first, last = _extent(header)
        if offset is None or last > size:
            raise CheckpointError(f"{self.path} is damaged: it lacks the values of {name}. Download it again.")
        return _Place(offset, size, self._zip.checksum(offset, size), first, last)

    def _read(self, name: str) -> Tensor:
        header, place = self.headers[name], self._places[name]
        if (place.first, place.last) == (0, place.size):
            content = self._bytes(name, place.offset, place.size, place.crc)
        else:
            self._check_shared(name, place)
            content = self._bytes(name, place.offset + place.first, place.last - place.first)
        return content.view(header.dtype).as_strided(header.shape, header.stride(), 0)

    def _check_shared(self, name: str, place: _Place) -> None:
        """Compare a storage with its checksum, once and block by block: a tensor may be a small part of it."""
        if place.crc is None or place.offset in self._checked:
            return
        found = 0
        for start in range(0, place.size, _BLOCK_BYTES):
            block = self._bytes(name, place.offset + start, min(_BLOCK_BYTES, place.size - start))
            values: Any = block.numpy()
            found = zlib.crc32(memoryview(values), found)
        self._require_sum(name, found, place.crc)
        self._checked.add(place.offset)


class _PickleWeights(WeightFile):
    def __init__(self, path: Path, identity: Identity, allow_non_finite: bool, select: Select) -> None:
        super().__init__(path, identity, allow_non_finite)
        content = unpickle(path)
        with path.open("rb") as file:
            self._require_unchanged(file.fileno())
        self.headers, self.facts = select(path, content), _facts(content)

    def sample(self, name: str) -> bytes:
        """Return the first bytes of a tensor."""
        values = self.headers[name].reshape(-1)[:_SAMPLE_BYTES]
        return values.contiguous().view(torch.uint8).numpy().tobytes()

    def _read(self, name: str) -> Tensor:
        return self.headers[name].clone()


def flat(path: Path, content: Any) -> dict[str, Tensor]:
    """Return the tensors of a ``.bin`` file, which holds nothing else. Raise CheckpointError if it does."""
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path} holds something other than a dictionary of tensors, so it is no checkpoint.")
    return content


def open_weights(
    path: Path, *, select: Select = flat, allow_non_finite: bool = False, identity: Identity | None = None
) -> WeightFile:
    """Open a file of weights, and check its structure.

    Args:
        path: a ``.safetensors`` file, or one that ``torch.save`` wrote.
        select: a function that finds the tensors in what ``torch.save`` stored.
        allow_non_finite: read values that are NaN or infinite, instead of raising an error.
        identity: what :func:`identify` said of the file when it was first looked at; None if that is now.

    Raises:
        CheckpointError: the file is missing, damaged or of another format, or is not the one that was identified.
    """
    with reading(path):
        found = identify(path)
        if identity is not None and found != identity:
            raise CheckpointError(_changed(path))
        if path.suffix == ".safetensors":
            return _SafetensorsWeights(path, found, allow_non_finite)
        return (_ZipWeights if is_archive(path) else _PickleWeights)(path, found, allow_non_finite, select)


def identify(path: Path) -> Identity:
    """Return the identity of a file. Raise CheckpointError if it is missing, empty or a Git-LFS pointer."""
    require_content(path)
    with reading(path):
        return Identity.of(path.stat())


class WeightFiles:
    """Several files, of which one is open at a time, because a pickle is held in memory whole.

    Args:
        files: the files; from now on they must not change.
        allow_non_finite: as in :func:`open_weights`.
    """

    def __init__(self, files: Iterable[Path], allow_non_finite: bool) -> None:
        self._identities = {file: identify(file) for file in files}
        self._allow_non_finite = allow_non_finite
        self._open: WeightFile | None = None

    def read(self, file: Path, name: str) -> Tensor:
        """Return a tensor; see :meth:`WeightFile.read`."""
        if self._open is None or self._open.path != file:
            self._open = None  # freed before the next file is opened
            identity = self._identities[file]
            self._open = open_weights(file, allow_non_finite=self._allow_non_finite, identity=identity)
        return self._open.read(name)


def _facts(content: Any) -> dict[str, int | str]:
    return {name: value for name, value in content.items() if isinstance(value, (int, str))}


def _extent(tensor: Tensor) -> tuple[int, int]:
    """Return the first byte of its storage that a tensor uses, and the one after the last."""
    size = tensor.element_size()
    first = int(tensor.storage_offset()) * size
    if not tensor.numel():
        return first, first
    steps = sum((count - 1) * step for count, step in zip(tensor.shape, tensor.stride(), strict=True))
    return first, first + int(steps + 1) * size


def _changed(path: Path) -> str:
    return f"{path} was changed while it was read. Run the command again when nothing writes that file."
