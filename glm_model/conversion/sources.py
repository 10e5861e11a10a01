"""Reads the tensors of a conversion: from an archive or a folder, packed or dequantized on the way if wanted.

The headers of a source describe all its tensors before any is read. Tensors are read in any order and are not kept.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..checkpoint.configuration import read_config
from ..checkpoint.files import StoredTensor, stored_tensors, weight_files
from ..checkpoint.packing_checks import refuse_mixed
from ..errors import CheckpointError
from ..kernels.packing import dequantize
from ..model.configuration import GLM130BConfig
from .pack_weight import is_packable, pack
from .sat_config import SIZES
from .shapes import tensor_shapes
from .torch_archive import DTYPES
from .weight_file import WeightFiles

SCALE = "_scale"
"""The suffix that makes the name of a packed weight's scales from the name of the weight."""


class Source(Protocol):
    """A GLM-130B checkpoint with whole tensors under their published names.

    Attributes:
        folder: the folder of its files.
        files: the files of its weights.
        config: the model's configuration.
        headers: every tensor by name, on the meta device, layer by layer.
    """

    folder: Path
    files: list[Path]
    config: GLM130BConfig
    headers: dict[str, Tensor]

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield name and tensor for each name, in this order. The source keeps no reference to a tensor."""
        ...


class HuggingFaceFolder:
    """A :class:`Source`: config.json and weights, as ``save_pretrained`` and this package's conversions write them.

    Args:
        folder: the folder.
        allow_non_finite: read values that are NaN or infinite, instead of raising an error.

    Raises:
        CheckpointError: the folder is of another model or damaged, or has an untied head or a packed embedding, which
            no archive can hold.
    """

    def __init__(self, folder: str | Path, allow_non_finite: bool = False) -> None:
        self.folder = Path(folder)
        config = read_config(self.folder, {GLM130BConfig.model_type})
        assert isinstance(config, GLM130BConfig)
        self.config = config
        self.files = weight_files(self.folder)
        self._weights = WeightFiles(self.files, allow_non_finite)
        self._stored = stored = stored_tensors(self.files)
        refuse_mixed(stored, self.config.quantization_bit, self.config.quantization_embeddings)
        self._require_archivable()
        self.headers = _headers(self.folder, stored, self.config)

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield name and tensor for each name, in this order."""
        for name in names:
            yield name, self._weights.read(self._stored[name].file, name)

    def _require_archivable(self) -> None:
        """Raise CheckpointError if the embedding is packed or the head is not tied to it."""
        if self.config.quantization_embeddings or not self.config.tie_word_embeddings:
            raise CheckpointError(
                f"{self.folder} has {'a packed embedding' if self.config.quantization_embeddings else 'a head'} of its "
                "own, for which an archive of SwissArmyTransformer has no place."
            )


def _headers(folder: Path, stored: Mapping[str, StoredTensor], config: GLM130BConfig) -> dict[str, Tensor]:
    sizes = {name: getattr(config, name) for name in SIZES}
    headers: dict[str, Tensor] = {}
    for name, shape in tensor_shapes(sizes, config.quantization_bit or 0):
        if name not in stored:
            raise CheckpointError(f"{folder} lacks {name}. The download may be incomplete.")
        if stored[name].shape != shape:
            raise CheckpointError(
                f"{stored[name].file}: {name} has shape {list(stored[name].shape)}, but config.json asks for "
                f"{list(shape)}."
            )
        if stored[name].dtype not in DTYPES:
            raise CheckpointError(f"{stored[name].file}: {name} is {stored[name].dtype}, which no archive holds.")
        headers[name] = torch.empty(shape, dtype=stored[name].dtype, device="meta")
    return headers


class Packed:
    """A :class:`Source` that quantizes the linear layers of a float source, with one scale per row of each weight."""

    def __init__(self, source: Source, bits: int) -> None:
        self._source, self._bits = source, bits
        self.folder, self.files = source.folder, source.files
        self.config = copy.deepcopy(source.config)
        self.config.update({"quantization_bit": bits})
        self.headers: dict[str, Tensor] = {}
        for name, header in source.headers.items():
            self.headers |= self._packed(name, header) if is_packable(name) else {name: header}

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield name and tensor for each name, in this order if scales are named directly after their weight."""
        wanted = set(names)
        weights = list(dict.fromkeys(name.removesuffix(SCALE) for name in names))
        for name, tensor in self._source.read(weights):
            made = self._packed(name, tensor) if is_packable(name) else {name: tensor}
            yield from ((part, value) for part, value in made.items() if part in wanted)
            del tensor, made  # free their memory before the next tensor is joined

    def _packed(self, name: str, weight: Tensor) -> dict[str, Tensor]:
        return pack(self.folder, name, weight, self._bits)


class Dequantized:
    """A :class:`Source` that dequantizes a packed source to the exact float32 products of its integers and scales."""

    def __init__(self, source: Source) -> None:
        self._source, self._bits = source, source.config.quantization_bit or 0
        self.folder, self.files = source.folder, source.files
        self.config = copy.deepcopy(source.config)
        self.config.update({"quantization_bit": 0, "dtype": torch.float32})
        self.headers = {
            name: self._float_header(header) if name + SCALE in source.headers else header
            for name, header in source.headers.items()
            if not name.endswith(SCALE)
        }

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield name and tensor for each name, in this order."""
        scales = self._source.headers.keys()
        needed = [part for name in names for part in (name, name + SCALE) if part in scales]
        tensors = self._source.read(needed)
        for name, tensor in tensors:
            if name + SCALE in scales:
                _, scale = next(tensors)
                tensor = self._float(tensor, scale)
            yield name, tensor

    def _float_header(self, packed: Tensor) -> Tensor:
        rows, width = packed.shape
        return torch.empty(rows, width * 8 // self._bits, device="meta")

    def _float(self, packed: Tensor, scale: Tensor) -> Tensor:
        """Return the float32 weight [rows, columns].

        Each column of ``scale`` [rows, ranks] belongs to an equal share of the weight's columns; [rows] belongs to all.
        """
        columns = scale.unbind(1) if scale.ndim == 2 else [scale]
        parts = packed.chunk(len(columns), dim=1)
        floats = [
            dequantize(part, column, self._bits, torch.float32) for part, column in zip(parts, columns, strict=True)
        ]
        return torch.cat(floats, dim=1)
