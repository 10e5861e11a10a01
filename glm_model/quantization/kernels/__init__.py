"""The product with a packed weight: the one function that the layers call, and the kernels that it can choose from.

A kernel is a pure function of plain tensors; it knows nothing of layers and models. All of them take

- ``x``: floating [..., in], any strides;
- ``weight``: int8 [out, in * bits / 8], contiguous, as :mod:`glm_model.quantization.packing` lays it out and the file
  holds it (it may be mapped memory: read only);
- ``scale``: float16 or float32 [out], contiguous, whatever the dtype of ``x``;
- ``bits``: 4 or 8;

all on one device, and return [..., out] in the dtype of ``x``.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from . import native, onnx, reference
from .choice import allowed, wanted

Precision = Literal["exact", "fast"]
"""``exact`` equals dequantizing and multiplying in the dtype of ``x``, up to the order of summation; ``fast`` may round
the activations too."""


class Kernel(NamedTuple):
    """One way to compute the product.

    Attributes:
        name: for people, when they ask which path is in use.
        precision: ``exact`` kernels also serve where ``fast`` is asked for.
        supports: whether it takes these arguments and is the right one for them; called before every product, so cheap.
        matmul: the product.
    """

    name: str
    precision: Precision
    supports: Callable[[Tensor, Tensor, Tensor, int], bool]
    matmul: Callable[[Tensor, Tensor, Tensor, int], Tensor]


REFERENCE = Kernel("reference", "exact", reference.supports, reference.matmul)
_KERNELS = [
    Kernel("native", "fast", native.supports, native.fast_matmul),
    Kernel("native", "exact", native.supports, native.exact_matmul),
    Kernel("onnxruntime", "fast", onnx.supports, onnx.matmul),
    REFERENCE,
]


def register(kernel: Kernel) -> None:
    """Make a kernel the first choice for what it supports."""
    _KERNELS.insert(0, kernel)


def describe(precision: Precision = "exact") -> str:
    """One line that says which path products on the CPU take, and why if it is not the fastest.

    Builds the native kernel if that was not done yet: where it is called before the first product, that one need not
    wait. See GLM_KERNEL in :mod:`glm_model.quantization.kernels.choice`.
    """
    if allowed("native"):
        found = native.describe()
        if native.is_usable():
            return f"{found}, {precision}"
    else:
        found = f"GLM_KERNEL={wanted()}"
    if precision == "fast" and allowed("onnxruntime") and onnx.is_installed():
        return f"onnxruntime ({found})"
    return f"reference kernel, slow ({found}; a C++ compiler or, for fast precision, onnxruntime would help)"


def choose(x: Tensor, weight: Tensor, scale: Tensor, bits: int, precision: Precision = "exact") -> Kernel:
    """The kernel that :func:`quantized_matmul` uses for these arguments; raises as it does."""
    if precision not in ("exact", "fast"):
        raise ValueError(f"precision must be 'exact' or 'fast', not {precision!r}")
    return next(
        kernel
        for kernel in _KERNELS
        if (precision == "fast" or kernel.precision == "exact") and kernel.supports(x, weight, scale, bits)
    )


def quantized_matmul(x: Tensor, weight: Tensor, scale: Tensor, bits: int, precision: Precision = "exact") -> Tensor:
    """``x @ (integers * scale).T``, [..., out]; see the module for the arguments.

    The gradient with respect to ``x`` is there, and keeps no dequantized weight. The weight has none.

    Raises:
        ValueError: an unknown precision.
    """
    if x.requires_grad and torch.is_grad_enabled():
        return _WithInputGradient.apply(x, weight, scale, bits, precision)
    return _multiply(x, weight, scale, bits, precision)


def _multiply(x: Tensor, weight: Tensor, scale: Tensor, bits: int, precision: Precision) -> Tensor:
    if x.device.type == "cpu" and torch.compiler.is_compiling():
        return _opaque_multiply(x, weight, scale, bits, precision)
    return choose(x, weight, scale, bits, precision).matmul(x, weight, scale, bits)


# For torch.compile, which cannot look into what ctypes calls: one node of its graph.
@torch.library.custom_op("glm_model::quantized_matmul", mutates_args=())
def _opaque_multiply(x: Tensor, weight: Tensor, scale: Tensor, bits: int, precision: str) -> Tensor:
    return choose(x, weight, scale, bits, cast(Precision, precision)).matmul(x, weight, scale, bits)


@_opaque_multiply.register_fake
def _shape_of_product(x: Tensor, weight: Tensor, scale: Tensor, bits: int, precision: str) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight))


class _WithInputGradient(torch.autograd.Function):
    """P-Tuning trains a prefix through frozen integers; autograd alone would keep every weight in float."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, bits: int, precision: Precision) -> Tensor:
        ctx.save_for_backward(weight, scale)
        ctx.bits = bits
        return _multiply(x, weight, scale, bits, precision)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, scale = ctx.saved_tensors
        return reference.input_gradient(gradients[0], weight, scale, ctx.bits), None, None, None, None
