"""Read and check the files of a checkpoint folder; this module handles files and tensors, not models.

A fault of a file raises a :class:`CheckpointError` that names the file and says what to do. No code in a file is ever
run: pickles are read with ``weights_only``.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers.modeling_utils import str_to_torch_dtype

from ..errors import CheckpointError, GLMError, one_line
from .boundary import DAMAGED, reading
from .json_file import parse_object, require_size
from .other_folders import what_it_is
from .pickle_size import require_small_archive, require_small_pickle
from .torch_zip import TorchZip

CONFIG = "config.json"
# In the order in which transformers looks for them.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_WEIGHT_SUFFIXES = (".safetensors", ".bin")
_LFS_START = b"version https://git-lfs"
_ZIP_START = b"PK\x03\x04"  # as torch.load tells its two formats apart


class StoredTensor(NamedTuple):
    """The file in which a tensor is stored, its shape and its dtype."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        CheckpointError: the file does not exist, is a Git-LFS pointer, too large or not JSON, holds no object, or a
            number that is not finite.
    """
    with reading(path):
        _require_file(path)
        require_size(path)
        stored = path.read_bytes()
        _require_content(path, stored)
        return parse_object(path, stored)


def require_content(path: Path) -> None:
    """Raise CheckpointError if a file is missing, empty or unreadable, or if it is a Git-LFS pointer."""
    with reading(path):
        _require_file(path)
        if not _is_utf8(path):
            raise CheckpointError(f"{path} cannot be read: its path is not valid UTF-8. Rename the folder or the file.")
        with path.open("rb") as stream:
            _require_content(path, stream.read(len(_LFS_START)))


def _is_utf8(path: Path) -> bool:
    """Return whether a path is text, as the libraries need it that read weights."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _require_file(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path} is no file. {DAMAGED}")
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist{_why_missing(path)}")


def _require_content(path: Path, start: bytes) -> None:
    """Raise CheckpointError if the start of a file shows that there is nothing in it to read."""
    if not start:
        raise CheckpointError(f"{path} is empty. {DAMAGED}")
    if start.startswith(_LFS_START):
        raise CheckpointError(
            f"{path} is a Git-LFS pointer, not the file itself: the repository was cloned without git-lfs. Run "
            f"'git lfs install && git lfs pull' in {path.parent}, or download the file."
        )


def _why_missing(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        if folder.is_file():
            return f": {folder} is a file. Name the folder that holds it, with config.json and the tokenizer."
        return f": there is no folder {folder}. Name the folder that holds the checkpoint."
    if path.name in (CONFIG, "latest") and (other := what_it_is(folder)):
        return f": {folder} {other}"
    if path.name == CONFIG and not any(file.suffix in _WEIGHT_SUFFIXES for file in folder.iterdir()):
        return f": {folder} is not a checkpoint's folder, it has no weights either. Name the folder that holds both."
    return f". {DAMAGED}"


def weight_files(folder: Path, use_safetensors: bool | None = None, variant: str | None = None) -> list[Path]:
    """Return the files with a folder's weights that transformers would choose; all of them exist and are inside it.

    Args:
        folder: holds one of ``WEIGHT_FILES``.
        use_safetensors: True or False allows only one format.
        variant: as in ``from_pretrained``, ``model.<variant>.safetensors``.

    Raises:
        CheckpointError: there are no weights, or a shard is missing or outside the folder.
    """
    with reading(folder):
        return _weight_files(folder, use_safetensors, variant)


def _weight_files(folder: Path, use_safetensors: bool | None, variant: str | None) -> list[Path]:
    for name in WEIGHT_FILES:
        if use_safetensors is not None and use_safetensors is not ("safetensors" in name):
            continue
        stem, _, suffix = name.rpartition(".")
        path = folder / (f"{stem}.{variant}.{suffix}" if variant else name)
        if path.is_file():
            return _shards(path) if suffix == "json" else [path]
    if other := what_it_is(folder):
        raise CheckpointError(f"{folder} holds no weights that can be loaded: it {other}")
    raise CheckpointError(
        f"{folder} holds no weights: none of {', '.join(WEIGHT_FILES)}. Choose the folder that holds them, or download "
        "the weights too."
    )


def _shards(index: Path) -> list[Path]:
    content = read_json(index)
    weight_map = content.get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names or not all(isinstance(name, str) for name in names) or not isinstance(content.get("metadata"), dict):
        raise CheckpointError(f"{index} is no index of shards (weight_map and metadata are needed). {DAMAGED}")
    return [_inside(index, name) for name in sorted(set(names))]


def _inside(index: Path, name: str) -> Path:
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or ":" in name:
        raise CheckpointError(
            f"{index} points outside its folder, to {name!r}; such an index is not to be trusted, use another copy of "
            "the checkpoint."
        )
    shard = index.parent / name
    try:
        is_there = shard.is_file()
    except (OSError, ValueError) as error:  # a name that no file can have, or a folder that may not be read
        raise CheckpointError(
            f"{index} names the shard {one_line(name, 100)!r}, which cannot be opened ({one_line(str(error), 100)})."
        ) from None
    if not is_there:
        raise CheckpointError(f"{index} names the shard {name}, which is missing. Download it into {index.parent}.")
    return shard


def stored_tensors(files: Iterable[Path]) -> dict[str, StoredTensor]:
    """Return file, shape and dtype of every tensor by its name, without reading the values.

    Raises:
        CheckpointError: a file is damaged, a Git-LFS pointer, or a pickle that holds more than tensors.
    """
    stored: dict[str, StoredTensor] = {}
    for file in files:
        with reading(file):
            stored |= _safetensors_headers(file) if file.suffix == ".safetensors" else _pickle_headers(file)
    return stored


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Return all tensors of one file by name, on the CPU; raise the errors of :func:`stored_tensors`."""
    if file.suffix != ".safetensors":
        return read_pickle(file)
    _safetensors_headers(file)
    with reading(file):
        return load_file(file)


def _safetensors_headers(file: Path) -> dict[str, StoredTensor]:
    require_content(file)
    try:
        with safe_open(file, framework="pt") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            return {
                name: StoredTensor(file, tuple(part.get_shape()), str_to_torch_dtype[part.get_dtype()])
                for name, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is truncated or no safetensors file ({error}). {DAMAGED}") from None
    except KeyError as error:
        raise CheckpointError(f"{file} holds tensors of the type {error}, which PyTorch does not have.") from None


def _pickle_headers(file: Path) -> dict[str, StoredTensor]:
    tensors = _require_tensors(file, unpickle(file, map_location="meta"))
    return {name: StoredTensor(file, tuple(value.shape), value.dtype) for name, value in tensors.items()}


def is_archive(file: Path) -> bool:
    """Return whether a file of ``torch.save`` is a zip archive, as torch 1.6 and later write it."""
    with file.open("rb") as stream:
        return stream.read(len(_ZIP_START)) == _ZIP_START


def read_pickle(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.bin`` file by name, mapped into memory instead of read if the file allows it.

    Raises:
        CheckpointError: the file is damaged, a Git-LFS pointer, or holds anything but a flat dictionary of tensors.
    """
    return _require_tensors(file, unpickle(file))


def _require_tensors(file: Path, content: Any) -> dict[str, Tensor]:
    """Return the content of a file; raise CheckpointError if it is anything but a flat dictionary of tensors."""
    if not isinstance(content, dict) or not all(isinstance(name, str) and is_plain(content[name]) for name in content):
        raise CheckpointError(
            f"{file} holds something other than a dictionary of tensors, so it is no checkpoint"
            f"{_where_tensors_are(content)}."
        )
    return content


def _where_tensors_are(content: object) -> str:
    """Return where the tensors of a training's checkpoint are, as the end of a sentence, or nothing."""
    if isinstance(content, dict):
        for name, part in content.items():
            if (
                isinstance(name, str)
                and isinstance(part, dict)
                and any(isinstance(one, Tensor) for one in part.values())
            ):
                return f": its tensors are inside {name[:40]!r}, so save that part alone (torch.save)"
    return ""


def is_plain(value: object) -> bool:
    """Return whether a value is a dense tensor with all its values in the file as they are, not to be negated."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
        return False
    if value.is_meta and _place(value) is None:
        return False
    if value.is_neg():  # what reads the bytes themselves, as a kernel does, would not know
        return False
    return value.nbytes <= value.untyped_storage().nbytes()  # an expanded tensor would grow when it is copied


def unpickle(file: Path, map_location: str = "cpu") -> Any:
    """Return what ``torch.save`` wrote: tensors and plain containers, never code.

    Args:
        file: the file.
        map_location: "cpu"; or "meta" for tensors without values, if the file is a zip archive.

    Raises:
        CheckpointError: the file, which the message names, is damaged or holds other Python objects.
    """
    with reading(file):
        require_content(file)
    try:
        if is_archive(file):
            return _unpickle_archive(file, map_location)
        require_small_pickle(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except (GLMError, MemoryError, PermissionError):
        raise
    except Exception as error:  # a damaged pickle may make the reader raise anything
        # Torch's own message advises to switch the protection off, so it is not passed on.
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                f"{file} holds Python objects besides tensors ({one_line(code[1], 100)}), which are never run here. "
                "Use a copy of the checkpoint in safetensors, or its weights alone."
            ) from None
        raise CheckpointError(f"{file} is truncated, damaged or no PyTorch file. {DAMAGED}") from None


def _unpickle_archive(file: Path, map_location: str) -> Any:
    """Return the content of a zip archive; raise CheckpointError if it lacks a tensor's values.

    torch maps the file, and would take the bytes of the next entry for those that are missing.
    """
    archive = TorchZip(file)
    require_small_archive(file)
    described = torch.load(file, map_location="meta", weights_only=True, mmap=True)
    for name, tensor in _tensors(described):
        place, size = _place(tensor), tensor.untyped_storage().nbytes()
        if place is None:
            raise CheckpointError(
                f"{file} holds something other than a dictionary of tensors, so it is no checkpoint: "
                f"{one_line(str(name), 100)} has no values in it."
            )
        if size:
            archive.checksum(place, size)
    if map_location == "meta":
        return described
    return torch.load(file, map_location=map_location, weights_only=True, mmap=True)


def _place(described: Tensor) -> int | None:
    """Return where in an archive the values of a tensor are that was loaded without; None if it was made without it."""
    place: int | None = getattr(described.untyped_storage(), "_checkpoint_offset", None)
    return place


def _tensors(content: Any) -> Iterator[tuple[Any, Tensor]]:
    """Yield the tensors in dictionaries inside each other, each dictionary once, with their names."""
    left, seen = [content], set()
    while left:
        part = left.pop()
        if isinstance(part, dict) and id(part) not in seen:
            seen.add(id(part))
            left += part.values()
            tensors = ((name, value) for name, value in part.items() if isinstance(value, Tensor))
            yield from ((name, tensor) for name, tensor in tensors if tensor.layout == torch.strided)
