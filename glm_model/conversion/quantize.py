"""Rewrites a float checkpoint as INT8 or INT4 in the published layout, tensor by tensor."""

import math
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from ..checkpoint.configuration import read_config
from ..checkpoint.files import CONFIG, StoredTensor, read_json, stored_tensors, weight_files
from ..checkpoint.packing_checks import refuse_mixed
from ..checkpoint.unfinished import growing_folder, write_through
from ..errors import CheckpointError
from ..kernels.packing import BITS
from ..quantization.rules import is_packed
from .files import copy_other_files, free_folder, require_space, write_json
from .pack_weight import pack
from .weight_file import WeightFiles

_HEAD = "lm_head.weight"
_EMBEDDING = re.compile(r"\.(word_embeddings|embed_tokens)\.weight$")


def quantize_checkpoint(
    source: str | Path,
    target: str | Path,
    bits: int,
    embeddings: bool = False,
    progress: bool = False,
    *,
    allow_non_finite: bool = False,
) -> None:
    """Write ``target``: the checkpoint ``source`` with packed linear layers and everything else unchanged.

    Each shard of the source becomes one shard in safetensors. Memory holds one packed shard and one source tensor, or
    the whole source shard if torch before 1.6 saved it. A head that is tied to the embedding is not written, as by
    ``save_pretrained``; a packed one is, because the published code needs its scales. ``target`` appears once complete.

    Args:
        source: folder with a float checkpoint in the published layout.
        target: a folder that does not exist yet, or is empty.
        bits: 4 or 8.
        embeddings: pack the embedding and the head too, as in chatglm-6b-int4-qe.
        progress: show a progress bar.
        allow_non_finite: convert values that are NaN or infinite, too, in tensors that are not packed.

    Raises:
        CheckpointError: the source is damaged, packed already, or holds a weight that cannot be packed.
        ValueError: ``bits`` is neither 4 nor 8, ``target`` exists and is not empty, or its disk is too small.
    """
    source = Path(source)
    fields = {"quantization_bit": bits, "quantization_embeddings": embeddings}
    if bits not in BITS:
        raise ValueError(f"bits must be 4 or 8, not {bits!r}")
    target = free_folder(target, source)
    config = read_config(source)
    files = weight_files(source)
    weights = WeightFiles(files, allow_non_finite)
    stored = stored_tensors(files)
    _require_float(source, config, stored)
    shards = _Shards(weights, stored, bits, embeddings, tied=config.tie_word_embeddings)
    if not any(map(shards.packs, shards.stored)):
        raise CheckpointError(f"{source} holds no weight of a linear layer; there is nothing to pack.")
    with (
        growing_folder(target, None) as folder,
        tqdm(total=shards.bytes, unit="B", unit_scale=True, desc=f"Packing to INT{bits}", disable=not progress) as bar,
    ):
        require_space(folder, shards.packed_bytes)
        shards.write(folder, bar)
        write_json(folder / CONFIG, read_json(source / CONFIG) | fields)
        copy_other_files(source, folder)


class _Shards:
    """The tensors of a checkpoint, grouped by source file, and the packed shards that are written of them."""

    def __init__(
        self, weights: WeightFiles, stored: dict[str, StoredTensor], bits: int, embeddings: bool, tied: bool
    ) -> None:
        self.weights = weights
        self.bits, self.embeddings, self.tied = bits, embeddings, tied
        self.stored = {name: tensor for name, tensor in stored.items() if not (tied and name == _HEAD)}
        self.names: dict[Path, list[str]] = {}
        for name, tensor in self.stored.items():
            self.names.setdefault(tensor.file, []).append(name)

    @property
    def bytes(self) -> int:
        """Bytes of the source tensors to read."""
        return sum(map(_size, self.stored.values()))

    @property
    def packed_bytes(self) -> int:
        """Bytes of the tensors to write; a packed embedding that is tied to the head is written twice."""
        return sum(self._packed_size(name, tensor) for name, tensor in self.stored.items())

    def packs(self, name: str) -> bool:
        """Return whether a tensor is written as integers and scales."""
        return name.endswith(".weight") and is_packed(name.removesuffix(".weight"), self.embeddings)

    def _packed_size(self, name: str, tensor: StoredTensor) -> int:
        if not self.packs(name):
            return _size(tensor)
        packed = math.prod(tensor.shape) * self.bits // 8 + 2 * tensor.shape[0]
        return 2 * packed if self.tied and _EMBEDDING.search(name) else packed

    def write(self, folder: Path, bar: Any) -> None:
        """Write all shards and, for more than one, their index; add the bytes of source tensors to the bar."""
        weight_map: dict[str, str] = {}
        total = 0
        for number, source in enumerate(self.names, start=1):
            file = "model.safetensors"
            if len(self.names) > 1:
                file = f"model-{number:05}-of-{len(self.names):05}.safetensors"
            sizes = self._write_shard(source, folder / file, bar)
            weight_map |= dict.fromkeys(sizes, file)
            total += sum(sizes.values())
        if len(self.names) > 1:
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            write_json(folder / "model.safetensors.index.json", index)

    def _write_shard(self, source: Path, target: Path, bar: Any) -> dict[str, int]:
        """Write one shard and return the bytes of each of its tensors, which are freed before the next shard."""
        shard = self._packed(source, bar)
        with write_through(target) as unfinished:
            try:
                save_file(shard, unfinished, metadata={"format": "pt"})
            except SafetensorError as error:  # raised for a full disk, among others
                raise OSError(f"{target} cannot be written: {error}") from error
        return {name: tensor.nbytes for name, tensor in shard.items()}

    def _packed(self, file: Path, bar: Any) -> dict[str, Tensor]:
        shard: dict[str, Tensor] = {}
        for name in self.names[file]:
            tensor = self.weights.read(file, name)
            if self.packs(name):
                shard |= pack(file, name, tensor, self.bits)
                if self.tied and _EMBEDDING.search(name):
                    shard[_HEAD], shard[f"{_HEAD}_scale"] = shard[name].clone(), shard[f"{name}_scale"].clone()
            else:
                shard[name] = tensor.contiguous()
            del tensor  # free its memory before the next tensor is read
            bar.update(_size(self.stored[name]))
        return shard


def _require_float(source: Path, config: Any, stored: dict[str, StoredTensor]) -> None:
    refuse_mixed(stored, config.quantization_bit, config.quantization_embeddings)
    if config.quantization_bit:
        raise CheckpointError(
            f"{source} is INT{config.quantization_bit} already. Quantize the float checkpoint it was made from."
        )


def _size(tensor: StoredTensor) -> int:
    return math.prod(tensor.shape) * tensor.dtype.itemsize
