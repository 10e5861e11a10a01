"""Writes a source as a folder in the Hugging Face layout: shards in safetensors, their index, config.json."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import split_torch_state_dict_into_shards
from torch import Tensor

from ..checkpoint.files import CONFIG, stored_tensors
from ..checkpoint.unfinished import write_through
from ..errors import CheckpointError
from .files import copy_other_files, write_json
from .safetensors_file import SafetensorsFile
from .sources import Source

INDEX = "model.safetensors.index.json"


def require_shard_size(size: str) -> None:
    """Raise ValueError unless ``size`` is a size above 0 with a unit, such as "5GB"."""
    try:
        split_torch_state_dict_into_shards({}, max_shard_size=size)  # raises ValueError for a size it cannot read
    except ValueError:
        size_above_zero = None
    else:
        size_above_zero = re.match(r"[0.]*[1-9]", size)
    if size_above_zero is None:
        raise ValueError(f"shard_size must be a size above 0 in KB, MB, GB or TB, such as 5GB, not {size!r}")


class HuggingFaceWriter:
    """A writer of Hugging Face folders. Memory holds one tensor of the source and of the target.

    Args:
        source: the checkpoint to write.
        shard_size: largest size of a file, such as "5GB". A larger tensor gets a file of its own.

    Attributes:
        total_bytes: bytes of the tensors to write.

    Raises:
        ValueError: ``shard_size`` is not a size above 0 with a unit.
    """

    def __init__(self, source: Source, shard_size: str) -> None:
        self._source = source
        self.total_bytes = sum(header.nbytes for header in source.headers.values())
        require_shard_size(shard_size)
        self._split = split_torch_state_dict_into_shards(source.headers, max_shard_size=shard_size)

    def finished_bytes(self, folder: Path) -> int:
        """Return the bytes of tensors in the complete shards that an earlier run left in ``folder``."""
        return sum(header.nbytes for file in self._finished(folder) for header in self._headers(file).values())

    def write(self, folder: Path, bar: Any) -> None:
        """Write the files that ``folder`` does not hold yet, config.json last; add the bytes of tensors to the bar."""
        finished = self._finished(folder)
        _keep_only(folder, finished)
        for file, names in self._split.filename_to_tensors.items():
            if file not in finished:
                self._write_shard(folder / file, names, bar)
        if self._split.is_sharded:
            index = {"metadata": self._split.metadata, "weight_map": self._split.tensor_to_filename}
            write_json(folder / INDEX, index)
        copy_other_files(self._source.folder, folder)
        self._write_config(folder / CONFIG)

    def _finished(self, folder: Path) -> list[str]:
        return [file for file in self._split.filename_to_tensors if _is_whole(folder / file, self._headers(file))]

    def _headers(self, file: str) -> dict[str, Tensor]:
        return {name: self._source.headers[name] for name in self._split.filename_to_tensors[file]}

    def _write_shard(self, path: Path, names: list[str], bar: Any) -> None:
        headers = self._headers(path.name)
        with write_through(path) as unfinished, SafetensorsFile(unfinished, headers) as shard:
            for name, tensor in self._source.read(names):
                shard.write(name, tensor)
                bar.update(tensor.nbytes)
                del tensor  # free its memory before the next tensor is joined

    def _write_config(self, path: Path) -> None:
        config = self._source.config
        config.architectures = ["GLM130BForCausalLM"]
        write_json(path, config.to_diff_dict())


def _keep_only(folder: Path, files: list[str]) -> None:
    """Remove all other files, such as incomplete ones that an interrupted run left."""
    for left in folder.iterdir():
        if left.name not in files:
            left.unlink()


def _is_whole(path: Path, headers: Mapping[str, Tensor]) -> bool:
    """Return whether a file holds exactly these tensors, by names, shapes and dtypes.

    Its bytes are complete if it exists, because it gets its name only after they are on the disk.
    """
    if not path.is_file():
        return False
    try:
        stored = stored_tensors([path])
    except CheckpointError:
        return False
    return {name: (tensor.shape, tensor.dtype) for name, tensor in stored.items()} == {
        name: (tuple(header.shape), header.dtype) for name, header in headers.items()
    }
