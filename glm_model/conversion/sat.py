"""Reads GLM-130B's own archive, written by SwissArmyTransformer: ``latest`` and ``<step>/mp_rank_XX_model_states.pt``.

The tensors have the published names. Each rank's file holds one part of every tensor, float or quantized.
:class:`SatArchive` checks the parts and joins them, one tensor at a time.

No tensor tells its rank. Files that are swapped are noticed by the name that ``torch.save`` writes into each of them,
copies also by their equal parts. Files that were swapped and then saved again leave no trace.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.boundary import reading
from ..checkpoint.files import is_plain, require_content
from ..checkpoint.keys import IGNORED_KEYS
from ..errors import CheckpointError
from ..kernels.packing import BITS
from ..model.configuration import GLM130BConfig
from .pack_weight import is_packable
from .ranks import require_one_checkpoint
from .sat_config import MODEL_CONFIG, read_configuration
from .shapes import EMBEDDING, part_shape, tensor_shapes
from .sources import SCALE, Dequantized, Source
from .tensor_parallel import cut_of, join
from .weight_file import WeightFile, open_weights

__all__ = ["MODEL_CONFIG", "SatArchive", "read_sat_checkpoint"]

logger = logging.getLogger(__name__)

_QUERY_KEY_VALUE = "transformer.layers.0.attention.query_key_value.weight"
_DOWN_PROJECTION = "transformer.layers.0.mlp.dense_4h_to_h.weight"
_STEP_LENGTH = 64  # of a number, with spaces around it; more is no step
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)


def read_sat_checkpoint(
    folder: str | Path, model_config: str | Path | None = None, **overrides: Any
) -> tuple[GLM130BConfig, dict[str, Tensor]]:
    """Return configuration and tensors of an archive; ``from_pretrained(None, config=..., state_dict=...)`` takes both.

    All tensors are then in memory. Converting the archive with
    ``python -m glm_model.conversion sat`` needs less memory, and makes a folder that loads like any other.

    Args:
        folder: holds ``latest``.
        model_config: a config.json or model_config.json; see :class:`SatArchive`.
        overrides: fields of :class:`GLM130BConfig` that no file gives, such as the ids of special tokens.

    Returns:
        The configuration, and the tensors by their published names, without ``inv_freq``. Packed weights stay packed
        if the scales of all ranks are equal, else they are float32.

    Raises:
        CheckpointError: see :class:`SatArchive`.
    """
    archive = SatArchive(folder, model_config, **overrides)
    source: Source = Dequantized(archive) if archive.scales_differ else archive
    return source.config, dict(source.read(list(source.headers)))


class SatArchive:
    """A :class:`~glm_model.conversion.sources.Source`: an archive of any number of ranks.

    Tensors that GLM-130B does not have are ignored with a warning, as by SwissArmyTransformer.

    Args:
        folder: holds ``latest``.
        config_file: a config.json or model_config.json with the fields that do not follow from the tensors: the number
            of heads and the ids of special tokens. It replaces fields of ``model_config.json`` beside ``latest``.
            GLM-130B itself needs neither file: it is recognised by its sizes.
        allow_non_finite: read values that are NaN or infinite, instead of raising an error.
        overrides: single fields of the configuration; they replace those of the files.

    Attributes:
        folder: the archive's folder.
        step: the name of the step's folder, a number or "release".
        files: the files of the ranks, in the order of ranks.
        config: the model's :class:`GLM130BConfig`.
        headers: the joined tensors on the meta device. Scales of a weight that is cut by columns are [rows], or
            [rows, ranks] if the ranks have different scales.

    Raises:
        CheckpointError: a file or tensor is missing, damaged or of a shape that does not fit the others, the files are
            of different checkpoints or stand in for each other, or the configuration is not known.
    """

    def __init__(
        self,
        folder: str | Path,
        config_file: str | Path | None = None,
        *,
        allow_non_finite: bool = False,
        **overrides: Any,
    ) -> None:
        self.folder = Path(folder)
        with reading(self.folder):
            step_folder = _step_folder(self.folder)
            self.files = _rank_files(step_folder)
        self.step = step_folder.name
        self._ranks = [open_weights(file, select=_module, allow_non_finite=allow_non_finite) for file in self.files]
        ranks = [rank.headers for rank in self._ranks]
        with reading(step_folder):
            sizes, bits = _sizes(self.files, ranks)
            names = _require_parts(self.files, ranks, sizes, bits)
        config_file = None if config_file is None else Path(config_file)
        self.config = read_configuration(self.folder, sizes, bits, config_file, overrides)
        require_one_checkpoint(self._ranks, names)
        self.headers = {name: _joined_header(name, self._ranks) for name in names}
        self.config.dtype = self.headers[EMBEDDING].dtype

    @property
    def scales_differ(self) -> bool:
        """Whether the ranks of some weight have different scales for the same row, so that they are [rows, ranks]."""
        return any(name.endswith("_scale") and header.ndim == 2 for name, header in self.headers.items())

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield name and joined tensor for each name."""
        for name in names:
            cut = cut_of(name)
            yield name, join([rank.read(name) for rank in (self._ranks[:1] if cut == "whole" else self._ranks)], cut)

    def fingerprint(self) -> list[str]:
        """Return a digest of the content of each rank's file."""
        return [rank.fingerprint() for rank in self._ranks]


def _step_folder(folder: Path) -> Path:
    latest = folder / "latest"
    require_content(latest)
    with latest.open(encoding="utf-8", errors="replace") as file:
        step = file.read(_STEP_LENGTH).strip()
    if not (step.isdecimal() or step == "release"):
        raise CheckpointError(f"{latest} must hold a step number or 'release', not {step[:40]!r}.")
    if step.isdecimal():
        step = str(int(step))  # SwissArmyTransformer reads a number and names the folder without leading zeros
    if not (folder / step).is_dir():
        raise CheckpointError(f"{latest} names step {step}, but there is no folder {folder / step}.")
    return folder / step


def _rank_files(step_folder: Path) -> list[Path]:
    found = {file.name: file for file in step_folder.glob("mp_rank_*_model_states.pt")}
    wanted = [f"mp_rank_{rank:02}_model_states.pt" for rank in range(max(1, len(found)))]
    if missing := [name for name in wanted if name not in found]:
        raise CheckpointError(
            f"{step_folder} holds no {missing[0]}"
            + (f", but {', '.join(sorted(found.keys() - set(wanted)))}" if found else "")
            + ". The download may be incomplete."
        )
    return [found[name] for name in wanted]


def _module(file: Path, content: Any) -> dict[str, Tensor]:
    """Return the tensors in what ``torch.save`` stored in a rank's file."""
    module = content.get("module") if isinstance(content, dict) else None
    if not isinstance(module, dict) or not all(isinstance(name, str) and is_plain(module[name]) for name in module):
        raise CheckpointError(f"{file} holds no 'module' of tensors, so it is no archive of SwissArmyTransformer.")
    return {name: tensor for name, tensor in module.items() if not re.search(IGNORED_KEYS, name)}


def _sizes(files: list[Path], ranks: Sequence[Mapping[str, Tensor]]) -> tuple[dict[str, int], int]:
    """Return the sizes of the model and the bits of its packed layers (0 for float), from the first rank's parts."""
    file, tensors = files[0], ranks[0]
    for name in (EMBEDDING, _DOWN_PROJECTION, _QUERY_KEY_VALUE):
        if name not in tensors or tensors[name].ndim != 2:
            raise CheckpointError(f"{file} has no matrix {name}, so it is no GLM-130B archive.")
    rows, hidden_size = tensors[EMBEDDING].shape
    bits = _bits(file, tensors[_QUERY_KEY_VALUE], hidden_size)
    if (query_rows := tensors[_QUERY_KEY_VALUE].shape[0]) * len(files) != 3 * hidden_size:
        raise CheckpointError(
            f"{file}: {_QUERY_KEY_VALUE} has {query_rows} of {3 * hidden_size} rows, which makes "
            f"{3 * hidden_size / max(1, query_rows):g} ranks, but there are {len(files)} files in {file.parent}. The "
            "download may be incomplete, or files of another archive are among them."
        )
    inner = tensors[_DOWN_PROJECTION].shape[1] * (8 // bits if bits else 1)
    layers = {match[1] for name in tensors if (match := re.match(r"transformer\.layers\.(\d+)\.", name))}
    return {
        "vocab_size": rows * len(files),
        "hidden_size": hidden_size,
        "num_layers": len(layers),
        "inner_hidden_size": inner * len(files),
    }, bits


def _bits(file: Path, weight: Tensor, hidden_size: int) -> int:
    if weight.dtype != torch.int8:
        return 0
    bits = weight.shape[1] * 8 / max(1, hidden_size)
    if bits not in BITS:
        raise CheckpointError(
            f"{file}: {_QUERY_KEY_VALUE} is int8 {list(weight.shape)}; for a hidden size of {hidden_size} that is "
            "neither INT8 nor INT4."
        )
    return int(bits)


def _require_parts(
    files: list[Path], ranks: Sequence[Mapping[str, Tensor]], sizes: dict[str, int], bits: int
) -> list[str]:
    """Return the names of all tensors. Raise CheckpointError unless every rank has each, of its shape and dtype."""
    shapes = dict(tensor_shapes(sizes, bits))
    for file, tensors in zip(files, ranks, strict=True):
        if missing := sorted(shapes.keys() - tensors.keys()):
            raise CheckpointError(f"{file} lacks {_listed(missing)}. The file is of another model, or incomplete.")
        _ignore(file, sorted(tensors.keys() - shapes.keys()), shapes)
        for name, shape in shapes.items():
            _require_part(file, name, tensors[name], _part_shape(file, name, shape, len(files)), ranks[0][name].dtype)
            _require_dtype(file, name, tensors[name].dtype, bits)
    return list(shapes)


def _ignore(file: Path, unknown: list[str], shapes: Mapping[str, Any]) -> None:
    """Warn of tensors that are not used. Raise CheckpointError if one is the scale of a weight that is not packed."""
    if scales := [name for name in unknown if name.removesuffix(SCALE) in shapes]:
        raise CheckpointError(f"{file} holds {_listed(scales)}, but not all linear layers of the archive are packed.")
    if unknown:
        logger.warning("%s: ignored, as GLM-130B does not have it: %s", file, _listed(unknown))


def _part_shape(file: Path, name: str, shape: tuple[int, ...], ranks: int) -> tuple[int, ...]:
    try:
        return part_shape(name, shape, ranks)
    except ValueError as error:
        raise CheckpointError(f"{file}: {name}: {error}, but there are {ranks} files in {file.parent}.") from None


def _require_part(file: Path, name: str, part: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if part.shape != shape:
        raise CheckpointError(
            f"{file}: {name} has shape {list(part.shape)}, but by the other tensors it must be {list(shape)}. The file "
            "is of another model or of another number of ranks."
        )
    if part.dtype != dtype:
        raise CheckpointError(f"{file}: {name} is {part.dtype}, but in the first rank {dtype}: mixed archives.")


def _require_dtype(file: Path, name: str, dtype: torch.dtype, bits: int) -> None:
    wanted = (torch.int8,) if bits and is_packable(name) else _FLOATS
    if dtype not in wanted:
        raise CheckpointError(
            f"{file}: {name} is {dtype}, but by the other tensors it must be {' or '.join(map(str, wanted))}."
        )


def _joined_header(name: str, ranks: list[WeightFile]) -> Tensor:
    """Return the joined tensor on the meta device; scales are joined before, because joining compares their values."""
    if cut_of(name) == "scales":
        return join([rank.read(name) for rank in ranks], "scales").to("meta")
    return join([rank.headers[name].to("meta") for rank in ranks], cut_of(name))


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
