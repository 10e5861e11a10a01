"""Packs a float weight of a checkpoint into integers and scales, with errors that name the weight and its file."""

from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..kernels.packing import packed_columns, quantize
from ..quantization.rules import is_packed


def is_packable(name: str) -> bool:
    """Return whether a tensor of GLM-130B, by its published name, is the weight of a linear layer."""
    return name.endswith(".weight") and is_packed(name.removesuffix(".weight"), embeddings=False)


def pack(place: Path, name: str, weight: Tensor, bits: int) -> dict[str, Tensor]:
    """Return packed integers and scales of a weight, by the names they are stored under.

    Args:
        place: file or folder that the weight comes from, for errors.
        name: name of the weight.
        weight: [rows, columns] in float; for a meta tensor the results are meta tensors too.
        bits: 4 or 8.

    Returns:
        ``name``: int8 [rows, packed columns], and ``name`` + "_scale": float16 [rows].

    Raises:
        CheckpointError: the weight cannot be packed, or holds values for which no finite scale exists.
    """
    try:
        packed, scale = _headers(weight, bits) if weight.is_meta else quantize(weight, bits)
    except ValueError as error:
        raise CheckpointError(f"{place}: {name}: {error}") from None
    if not (scale.is_meta or bool(scale.isfinite().all())):
        raise CheckpointError(f"{place}: {name} holds values that are NaN, infinite or too large for a scale in half.")
    return {name: packed, f"{name}_scale": scale}


def _headers(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return integers and scales as :func:`quantize` makes them, but on the meta device, so without any work."""
    rows, columns = weight.shape
    packed = torch.empty(rows, packed_columns(columns, bits), dtype=torch.int8, device="meta")
    return packed, torch.empty(rows, dtype=torch.float16, device="meta")
