"""The published row-wise symmetric quantization of ChatGLM-6B and GLM-130B, on plain tensors. Imports nothing of ours.

A float weight [rows, columns] becomes integers of 4 or 8 bits and one scale per row; the weight stands for
``integers * scale``. Two 4-bit integers share a byte: the even column is the high nibble, both are two's complement.
Source: ``QuantizedLinear.__init__`` in quantization.py of the published ChatGLM-6B.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

BITS = (4, 8)
# Elements that are worked on at once: whatever is made on the way stays at a few MB.
_BLOCK = 1 << 20


def packed_columns(columns: int, bits: int) -> int:
    """Return the bytes in a packed row of ``columns`` integers.

    Raises:
        ValueError: ``bits`` is not 4 or 8, or the row does not fill whole bytes.
    """
    if bits not in BITS:
        raise ValueError(f"bits must be 4 or 8, not {bits!r}")
    if columns * bits % 8:
        raise ValueError(f"{columns} columns are odd: in INT4 two share a byte; use 8 bits")
    return columns * bits // 8


def row_blocks(rows: int, columns: int, elements: int | None = None) -> Iterator[slice]:
    """Return slices that cover all rows, each of at most ``elements`` (None: a million), but of one row at least."""
    step = max(1, (elements or _BLOCK) // max(1, columns))
    return (slice(start, start + step) for start in range(0, rows, step))


@torch.no_grad()
def quantize(weight: Tensor, bits: int, peak: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return packed integers and scales of a float weight, bit for bit the original's.

    Division and rounding happen in the weight's own dtype as in the original, so a half weight and the same values in
    float32 can give different integers. The divisor is a tensor, because a GPU would multiply by the reciprocal of a
    number, which is not the same.

    Args:
        weight: floating, [rows, columns].
        bits: 4 or 8.
        peak: of ``weight``'s dtype, [rows], as :func:`row_peaks` of all columns if ``weight`` has but some of them.

    Returns:
        Packed integers, int8 [rows, columns * bits / 8], and scales, float16 [rows]. A row of zeros has scale 0, and so
        has one of values too small for a half scale (all under 2e-7 with 4 bits, 4e-6 with 8), which becomes zeros. In
        a row whose scale half rounds down strongly (all values under 3e-6 with 4 bits, 1e-3 with 8) the largest may
        wrap round to the other sign, as the original lets them. A row that holds NaN or infinity, or values over 65504
        times the largest integer, has a scale that is not finite.

    Raises:
        ValueError: not a floating matrix, ``bits`` not 4 or 8, or an odd number of columns with 4 bits.
    """
    if weight.ndim != 2 or not weight.is_floating_point():
        raise ValueError(f"only a floating matrix can be quantized, not {weight.dtype} {list(weight.shape)}")
    rows, columns = weight.shape
    packed = torch.empty(rows, packed_columns(columns, bits), dtype=torch.int8, device=weight.device)
    scale = torch.empty(rows, dtype=torch.float16, device=weight.device)
    for block in row_blocks(rows, columns):
        part = weight[block]
        peaks = _peaks(part) if peak is None else peak[block]
        integers, scale[block] = _quantize_rows(part, peaks, 2 ** (bits - 1) - 1)
        packed[block] = pack(integers, bits)
    return packed, scale


@torch.no_grad()
def row_peaks(weight: Tensor) -> Tensor:
    """Return the largest magnitude in each row of a float weight, which sets its scale; NaN where the row has one."""
    return torch.cat([_peaks(weight[block]) for block in row_blocks(*weight.shape)])


def _peaks(rows: Tensor) -> Tensor:
    return rows.abs().amax(dim=-1)


def _quantize_rows(weight: Tensor, peak: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    scale = (peak / torch.tensor(limit, dtype=peak.dtype, device=peak.device)).half()
    integers = torch.round(weight / scale[:, None])
    # A scale of zero or none at all: the original casts what is then NaN or infinite to int8, which gives 0 on x86.
    # Through int32, so that integers over the limit lose their upper bits on every processor.
    return integers.nan_to_num(0, 0, 0).to(torch.int32).to(torch.int8), scale


def pack(integers: Tensor, bits: int) -> Tensor:
    """Return int8 [..., columns] as it is stored, int8 [..., columns * bits / 8]; raise as :func:`packed_columns`."""
    packed_columns(integers.shape[-1], bits)
    if bits == 8:
        return integers
    return (integers[..., ::2] << 4) | (integers[..., 1::2] & 15)


def unpack(packed: Tensor, bits: int) -> Tensor:
    """Return the integers that :func:`pack` was given; with 8 bits the tensor itself."""
    if bits == 8:
        return packed
    # Shifts of signed bytes: the one to the right carries the sign.
    return torch.stack([packed >> 4, (packed << 4) >> 4], dim=-1).flatten(-2)


def dequantize(packed: Tensor, scale: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """Return the weight that packed integers stand for, ``integers * scale``.

    Exact in float32; rounded once in half and bfloat16. In half it is what the original's CUDA kernel computes.

    Args:
        packed: int8 [..., columns * bits / 8].
        scale: float16 or float32 [...].
        dtype: floating, of the result [..., columns].
    """
    working = torch.promote_types(scale.dtype, dtype)
    return (unpack(packed, bits).to(working) * scale.to(working)[..., None]).to(dtype)
