"""The published rule once more, slow and exact: fractions and Python integers, one element at a time."""

from fractions import Fraction

import torch
from torch import Tensor

# Digits of the mantissa, and the exponent of the smallest number.
_FORMATS = {torch.float16: (11, -24), torch.bfloat16: (8, -133), torch.float32: (24, -149)}


def nearest(value: Fraction, dtype: torch.dtype) -> Fraction:
    """The number of a floating type next to `value`; of two, the even one."""
    digits, smallest = _FORMATS[dtype]
    if value == 0:
        return value
    exponent = 0
    while abs(value) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** max(exponent - digits + 1, smallest)
    return round(value / unit) * unit


def quantized_row(row: list[float], dtype: torch.dtype, bits: int) -> tuple[list[int], float]:
    """Integers and scale of one row of weights in `dtype`; integers too large for their bits wrap round."""
    values = [Fraction(value) for value in row]
    limit = 2 ** (bits - 1) - 1
    scale = nearest(nearest(max(map(abs, values)) / limit, dtype), torch.float16)
    if scale == 0:
        return [0] * len(row), 0.0
    quotient_dtype = torch.promote_types(dtype, torch.float16)
    integers = [round(nearest(value / scale, quotient_dtype)) for value in values]
    return [(integer + limit + 1) % 2**bits - limit - 1 for integer in integers], float(scale)


def quantized(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Stored integers, int8, and scales, half, of a weight [rows, columns]."""
    packed, scales = [], []
    for row in weight.tolist():
        integers, scale = quantized_row(row, weight.dtype, bits)
        packed.append(integers if bits == 8 else nibbles(integers))
        scales.append(scale)
    return torch.tensor(packed, dtype=torch.int8), torch.tensor(scales, dtype=torch.float16)


def nibbles(integers: list[int]) -> list[int]:
    """Pairs of 4-bit integers as signed bytes, the first one high."""
    pairs = zip(integers[::2], integers[1::2], strict=True)
    unsigned = [(even % 16) * 16 + odd % 16 for even, odd in pairs]
    return [byte - 256 if byte >= 128 else byte for byte in unsigned]


def integers_of(packed: Tensor, bits: int) -> list[list[int]]:
    """The integers in stored bytes."""
    if bits == 8:
        return packed.tolist()
    rows = [[(byte // 16, (byte % 16 + 8) % 16 - 8) for byte in row] for row in packed.tolist()]
    return [[integer for pair in row for integer in pair] for row in rows]


def dequantized(packed: Tensor, scale: Tensor, bits: int) -> Tensor:
    """float64 [rows, columns], exact."""
    rows = zip(integers_of(packed, bits), scale.tolist(), strict=True)
    return torch.tensor([[integer * factor for integer in row] for row, factor in rows], dtype=torch.float64)
