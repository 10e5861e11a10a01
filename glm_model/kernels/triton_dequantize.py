"""Dequantize a weight on a GPU, for products with many rows, which the GPU's library computes. Needs Triton."""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Reads one or half a byte and writes two for each element. 16 bytes a thread when INT4 is read, one row a program.
_TILE_BYTES, _WARPS = 1024, 4


def dequantize(packed: Tensor, scale: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """Return what :func:`glm_model.kernels.packing.dequantize` returns; packed and scale contiguous."""
    rows, width = packed.shape
    out = packed.new_empty(rows, width * 8 // bits, dtype=dtype)
    grid = (rows, triton.cdiv(width, _TILE_BYTES))
    _dequantize[grid](packed, scale, out, width, bits=bits, tile=_TILE_BYTES, num_warps=_WARPS)
    return out


@triton.jit
def _dequantize(
    packed_ptr,  # int8 [rows, width]
    scale_ptr,  # [rows]
    out_ptr,  # [rows, width * 8 / bits]
    width,
    bits: tl.constexpr,
    tile: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1) * tile
    byte = start + tl.arange(0, tile)
    integers = tl.load(packed_ptr + row * width + byte, mask=byte < width, other=0)
    if bits == 4:
        # Shifts of signed bytes: the one to the right carries the sign. The even column is the high nibble.
        integers = tl.interleave(integers >> 4, (integers << 4) >> 4)
    column = start * (8 // bits) + tl.arange(0, tile * (8 // bits))
    scale = tl.load(scale_ptr + row).to(tl.float32)
    value = (integers.to(tl.float32) * scale).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * width * (8 // bits) + column, value, mask=column < width * (8 // bits))
