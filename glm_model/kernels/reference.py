"""The kernel that every other one is measured against: dequantize a block of rows, multiply, go on to the next."""

import torch
from torch import Tensor

from .packing import dequantize, row_blocks


def supports(x: Tensor, weight: Tensor, scale: Tensor, bits: int) -> bool:
    """Return True: it takes any device and any floating dtype."""
    return True


def matmul(x: Tensor, weight: Tensor, scale: Tensor, bits: int, bias: Tensor | None = None) -> Tensor:
    """Return ``x @ dequantized.T + bias`` in the dtype of ``x``; see :func:`.quantized_matmul`."""
    blocks = row_blocks(len(weight), weight.shape[1] * 8 // bits)
    parts = [x @ dequantize(weight[rows], scale[rows], bits, x.dtype).mT for rows in blocks]
    product = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
    return product if bias is None else product + bias.to(product.dtype)


def input_gradient(gradient: Tensor, weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Return ``gradient @ dequantized``: the gradient [..., in] of a product's input from its output's [..., out].

    Sums over blocks of rows in float32 at least.
    """
    columns = weight.shape[1] * 8 // bits
    total = gradient.new_zeros(*gradient.shape[:-1], columns, dtype=torch.promote_types(gradient.dtype, torch.float32))
    for rows in row_blocks(len(weight), columns):
        total += gradient[..., rows] @ dequantize(weight[rows], scale[rows], bits, gradient.dtype)
    return total.to(gradient.dtype)
