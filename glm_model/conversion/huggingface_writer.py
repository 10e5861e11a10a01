"""A source written as a folder in the Hugging Face layout: shards in safetensors, their index, config.json."""

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
    """Raise ValueError unless it is a size above 0 with a unit, such as "5GB"."""
    try:
        split_torch_state_dict_into_shards({}, max_shard_size=size)  # for its reading of the size
    except ValueError:
        size_above_zero = None
    else:
        size_above_zero = re.match(r"[0.]*[1-9]", size)
    if size_above_zero is None:
        raise ValueError(f"shard_size must be a size above 0 in KB, MB, GB or TB, such as 5GB, not {size!r}")


class HuggingFaceWriter:
    """Writes shard by shard, each tensor by tensor; memory holds one layer of the source, and one tensor of the target.

    Args:
        source: what to write.
        shard_size: largest size of a file, such as "5GB". A tensor that is larger has a file of its own.

    Attributes:
        total_bytes: of the tensors to write.

    Raises:
        ValueError: ``shard_size`` is no size.
    """

    def __init__(self, source: Source, shard_size: str) -> None:
        self._source = source
        self.total_bytes = sum(header.nbytes for header in source.headers.values())
        require_shard_size(shard_size)
        self._split = split_torch_state_dict_into_shards(source.headers, max_shard_size=shard_size)

    def finished_bytes(self, folder: Path) -> int:
        """Of tensors in the shards that an earlier run has left there whole."""
        return sum(header.nbytes for file in self._finished(folder) for header in self._headers(file).values())

    def write(self, folder: Path, bar: Any) -> None:
        """Write what ``folder`` does not hold yet; config.json comes last. ``bar`` counts the bytes of tensors."""
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
        with write_through(path) as unfinished, SafetensorsFile(unfinished, self._headers(path.name)) as shard:
            for name, tensor in self._source.read(names):
                shard.write(name, tensor)
                bar.update(tensor.nbytes)
                del tensor  # gone before the next one is joined

    def _write_config(self, path: Path) -> None:
        config = self._source.config
        config.architectures = ["GLM130BForCausalLM"]
        write_json(path, config.to_diff_dict())


def _keep_only(folder: Path, files: list[str]) -> None:
    """Remove what a kill has left half-written, under whatever name."""
    for left in folder.iterdir():
        if left.name not in files:
            left.unlink()


def _is_whole(path: Path, headers: Mapping[str, Tensor]) -> bool:
    """Whether a file holds just these tensors. It was renamed when its content was on the disk."""
    if not path.is_file():
        return False
    try:
        stored = stored_tensors([path])
    except CheckpointError:
        return False
    return {name: (tensor.shape, tensor.dtype) for name, tensor in stored.items()} == {
        name: (tuple(header.shape), header.dtype) for name, header in headers.items()
    }
