"""A float weight of a checkpoint on its way to packed integers, with errors that name it."""

from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..kernels.packing import packed_columns, quantize
from ..quantization.rules import is_packed


def is_packable(name: str) -> bool:
    """Whether a tensor of GLM-130B is the weight of a linear layer."""
    return name.endswith(".weight") and is_packed(name.removesuffix(".weight"), embeddings=False)


def pack(place: Path, name: str, weight: Tensor, bits: int) -> dict[str, Tensor]:
    """Packed integers and scales by the names they are stored under; of a meta tensor, their headers.

    Args:
        place: file or folder that the weight comes from, for errors.

    Raises:
        CheckpointError: the weight cannot be packed, or holds values without a scale.
    """
    try:
        packed, scale = _headers(weight, bits) if weight.is_meta else quantize(weight, bits)
    except ValueError as error:
        raise CheckpointError(f"{place}: {name}: {error}") from None
    if not (scale.is_meta or bool(scale.isfinite().all())):
        raise CheckpointError(f"{place}: {name} holds values that are NaN, infinite or too large for a scale in half.")
    return {name: packed, f"{name}_scale": scale}


def _headers(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """What :func:`quantize` would make, at once for a weight of any size."""
    rows, columns = weight.shape
    packed = torch.empty(rows, packed_columns(columns, bits), dtype=torch.int8, device="meta")
    return packed, torch.empty(rows, dtype=torch.float16, device="meta")
