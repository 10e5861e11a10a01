"""Operands of the products on which a kernel is tried before a model runs on it: the same numbers each time."""

from typing import NamedTuple

import torch
from torch import Tensor


class Operands(NamedTuple):
    """The operands of a product, on the CPU.

    Attributes:
        x: float32 [rows, in].
        weight: int8 [out, in * bits / 8].
        scale: float16 [out].
        bits: 4 or 8.
    """

    x: Tensor
    weight: Tensor
    scale: Tensor
    bits: int


def operands(rows: int, columns: int, outputs: int, bits: int) -> Operands:
    """Return random operands. Dtypes and devices are named, because a user may have changed torch's defaults."""
    cpu = torch.device("cpu")
    generator = torch.Generator(cpu).manual_seed(1)
    x = torch.randn(rows, columns, generator=generator, dtype=torch.float32, device=cpu)
    shape = (outputs, columns * bits // 8)
    weight = torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8, device=cpu)
    scale = torch.rand(outputs, generator=generator, dtype=torch.float32, device=cpu).half()
    return Operands(x, weight, scale, bits)
