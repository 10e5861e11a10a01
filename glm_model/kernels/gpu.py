"""What the kernels for GPUs share: a trial before a model runs on them, and the product by way of a float weight."""

import logging
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from . import reference, trial
from .packing import row_blocks

logger = logging.getLogger(__name__)

# Elements of a float weight that exist at once: 128 MB in half. Of ChatGLM-6B all but the head are whole in one block.
_BLOCK = 1 << 26

Matmul = Callable[[Tensor, Tensor, Tensor, int, Tensor | None], Tensor]
Dequantize = Callable[[Tensor, Tensor, int, torch.dtype], Tensor]


def multiply_dequantized(
    x: Tensor, weight: Tensor, scale: Tensor, bits: int, bias: Tensor | None, dequantize: Dequantize
) -> Tensor:
    """Return ``x @ dequantized.T + bias`` in the dtype of ``x``, [..., out], multiplied by the GPU's library."""
    bias = None if bias is None else bias.to(x.dtype)
    parts = [
        F.linear(x, part, None if bias is None else bias[rows])
        for rows, part in float_blocks(weight, scale, bits, x.dtype, dequantize)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def float_blocks(
    weight: Tensor, scale: Tensor, bits: int, dtype: torch.dtype, dequantize: Dequantize
) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of rows that together cover a weight, each with those rows dequantized."""
    for rows in row_blocks(len(weight), weight.shape[1] * 8 // bits, _BLOCK):
        yield rows, dequantize(weight[rows], scale[rows], bits, dtype)


def describe(name: str) -> Callable[[torch.device, str, str], str]:
    """Return the ``describe`` of a :class:`.dispatch.Backend` of this name."""
    return lambda device, precision, why_not_better: f"{name} kernels on {torch.cuda.get_device_name(device)}"


# ---- the trial

# Rows of activations and in_features: one row, a few and many may each be multiplied in a way of its own, and so may
# weights whose rows are no whole words.
_SHAPES = ((1, 264), (5, 264), (80, 264), (3, 262))
_OUTPUTS = 70


def failure(name: str, matmul: Matmul, device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why a kernel is not to be used on this GPU with activations of this dtype, or None; log the reason.

    Args:
        name: of what brings the kernel, for people.
        matmul: the product, of (x, weight, scale, bits, bias).
    """
    try:
        right = all(_is_right(matmul, shape, bits, device, dtype) for shape in _SHAPES for bits in (4, 8))
        reason = None if right else f"{name} computes something else than the reference"
    except Exception as error:  # whatever a compiler, a driver or a package of another time may raise
        first_line = str(error).strip().partition("\n")[0]
        reason = f"{name} cannot be used ({type(error).__name__}: {first_line})"
    if reason:
        logger.warning("Products in %s on %s: %s", dtype, device, reason)
    return reason


def _is_right(matmul: Matmul, shape: tuple[int, int], bits: int, device: torch.device, dtype: torch.dtype) -> bool:
    rows, columns = shape
    x, weight, scale, _ = trial.operands(rows, columns, _OUTPUTS, bits)
    x, bias = x.to(dtype), scale.to(dtype)
    expected = reference.matmul(x.float(), weight, scale, bits, bias)
    result = matmul(x.to(device), weight.to(device), scale.to(device), bits, bias.to(device)).float().cpu()
    return bool((result - expected).abs().max() <= 4 * torch.finfo(dtype).eps * expected.abs().max())
