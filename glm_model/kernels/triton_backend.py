"""Products on a GPU by Triton: whether it can be used, and which of its kernels takes which product.

Nothing of Triton is imported before a product on a GPU, and then it is tried: it may be missing, not know the GPU, or
find no C compiler, which it needs for what starts its kernels. Whatever goes wrong, others multiply.
"""

import functools
import importlib.util

import torch
from torch import Tensor

from . import dispatch, gpu
from .choice import allowed

_FLOATS = (torch.float16, torch.bfloat16)


def supports(x: Tensor, weight: Tensor, scale: Tensor, bits: int) -> bool:
    """Return whether it takes them: float16 or bfloat16 on a GPU; the first call on each GPU tries Triton there."""
    return (
        x.is_cuda
        and allowed("triton")
        and x.dtype in _FLOATS
        and weight.is_contiguous()
        and weight.numel() > 0
        and scale.is_contiguous()
        and problem(x.device, x.dtype) is None
    )


@functools.cache
def problem(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why Triton does not multiply on this GPU, or None if it does; found out once."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    return gpu.failure("Triton", functools.partial(matmul, tuned=False), device, dtype)


def matmul(
    x: Tensor, weight: Tensor, scale: Tensor, bits: int, bias: Tensor | None = None, *, tuned: bool = True
) -> Tensor:
    """Return ``x @ (integers * scale).T + bias``; see :func:`glm_model.kernels.dispatch.quantized_matmul`.

    Few rows are multiplied by what is unpacked on the way. For many the weight is dequantized first, and the GPU's own
    library, which nothing written here would outdo, multiplies.

    Args:
        tuned: whether the first product of a shape may take the time to find the fastest way.
    """
    from . import triton_dequantize, triton_fused

    states = x.detach().reshape(-1, x.shape[-1])
    with torch.cuda.device_of(x):  # kernels are launched on the current GPU, wherever their arguments are
        if 0 < len(states) <= triton_fused.MOST_ROWS and triton_fused.takes(weight):
            tile = None if tuned else triton_fused.tiles(len(states))[0]
            out = triton_fused.multiply(states, weight, scale, bits, bias, tile)
        else:
            out = gpu.multiply_dequantized(states, weight, scale, bits, bias, triton_dequantize.dequantize)
    return out.reshape(*x.shape[:-1], len(weight))


def input_gradient(gradient: Tensor, weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Return what :func:`glm_model.kernels.reference.input_gradient` returns, by larger blocks."""
    from .triton_dequantize import dequantize

    with torch.cuda.device_of(gradient):
        blocks = gpu.float_blocks(weight, scale, bits, gradient.dtype, dequantize)
        parts = (gradient[..., rows] @ part for rows, part in blocks)
        total = next(parts)
        for part in parts:
            total = total.float() + part
    return total.to(gradient.dtype)


def _problem_in_half(device: torch.device) -> str | None:
    return problem(device, torch.float16)


dispatch.register(
    dispatch.Backend(
        "triton",
        "cuda",
        (dispatch.Kernel("triton", "exact", supports, matmul, input_gradient),),
        _problem_in_half,
        gpu.describe("triton"),
    )
)
