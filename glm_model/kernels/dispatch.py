"""The product with a packed weight: the one function that the layers call, and the kernels that it can choose from.

A kernel is a pure function of plain tensors; it knows nothing of layers and models. All of them take

- ``x``: floating [..., in], any strides;
- ``weight``: int8 [out, in * bits / 8], contiguous, as :mod:`glm_model.kernels.packing` lays it out and the file
  holds it (it may be mapped memory: read only);
- ``scale``: float16 or float32 [out], contiguous, whatever the dtype of ``x``;
- ``bits``: 4 or 8;
- ``bias``: floating [out], or None;

all on one device, and return [..., out] in the dtype of ``x``.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from . import cpm, native, onnx, reference, triton_backend
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
        matmul: the product, of the five arguments above.
        input_gradient: the gradient of ``x``, see :func:`.reference.input_gradient`.
    """

    name: str
    precision: Precision
    supports: Callable[[Tensor, Tensor, Tensor, int], bool]
    matmul: Callable[[Tensor, Tensor, Tensor, int, Tensor | None], Tensor]
    input_gradient: Callable[[Tensor, Tensor, Tensor, int], Tensor] = reference.input_gradient


REFERENCE = Kernel("reference", "exact", reference.supports, reference.matmul)
_KERNELS = [
    Kernel("native", "fast", native.supports, native.fast_matmul),
    Kernel("native", "exact", native.supports, native.exact_matmul),
    Kernel("onnxruntime", "fast", onnx.supports, onnx.fast_matmul),
    Kernel("onnxruntime", "exact", onnx.supports, onnx.exact_matmul),
    Kernel("triton", "exact", triton_backend.supports, triton_backend.matmul, triton_backend.input_gradient),
    Kernel("cpm_kernels", "exact", cpm.supports, cpm.matmul),
    REFERENCE,
]


def register(kernel: Kernel) -> None:
    """Make a kernel the first choice for what it supports."""
    _KERNELS.insert(0, kernel)


def describe(precision: Precision = "exact", device: torch.device | str = "cpu") -> str:
    """One line that says which path products on a device take, and why if it is not the fastest.

    Builds or tries the kernel if that was not done yet: where it is called before the first product, that one need not
    wait. See GLM_KERNEL in :mod:`glm_model.kernels.choice`.
    """
    if torch.device(device).type == "cuda":
        return _describe_gpu(torch.device(device))
    if allowed("native"):
        found = native.describe()
        if native.is_usable():
            return f"{found}, {precision}"
    else:
        found = f"GLM_KERNEL={wanted()}"
    if onnx.is_usable():
        return f"onnxruntime, {precision} ({found})"
    return f"reference kernel, slow ({found}; a C++ compiler or onnxruntime would help)"


def _describe_gpu(device: torch.device) -> str:
    if device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    backends = {
        "triton": lambda: triton_backend.problem(device, torch.float16),
        "cpm_kernels": lambda: cpm.problem(device),
    }
    reasons = []
    for name, problem in backends.items():
        if allowed(name):
            reason = problem()
            if reason is None:
                return f"{name} kernels on {torch.cuda.get_device_name(device)}"
            reasons.append(reason)
    return f"reference kernel, slow ({'; '.join(reasons) or f'GLM_KERNEL={wanted()}'})"


def decoding(x: Tensor) -> AbstractContextManager[None]:
    """To stand around the layers of a packed model while each sequence gets one token; ``x``: what they are given."""
    if torch.compiler.is_compiling() or x.device.type != "cpu" or native.is_usable():
        return nullcontext()
    return onnx.one_thread_for_torch() if onnx.is_usable() else nullcontext()


def choose(x: Tensor, weight: Tensor, scale: Tensor, bits: int, precision: Precision = "exact") -> Kernel:
    """The kernel that :func:`quantized_matmul` uses for these arguments; raises as it does."""
    if precision not in ("exact", "fast"):
        raise ValueError(f"precision must be 'exact' or 'fast', not {precision!r}")
    return next(
        kernel
        for kernel in _KERNELS
        if (precision == "fast" or kernel.precision == "exact") and kernel.supports(x, weight, scale, bits)
    )


def quantized_matmul(
    x: Tensor, weight: Tensor, scale: Tensor, bits: int, precision: Precision = "exact", bias: Tensor | None = None
) -> Tensor:
    """``x @ (integers * scale).T + bias``, [..., out]; see the module for the arguments.

    The gradients with respect to ``x`` and ``bias`` are there, and keep no dequantized weight. The weight has none.

    Raises:
        ValueError: an unknown precision, or arguments that do not belong together.
    """
    if not torch.is_grad_enabled() or not (x.requires_grad or (bias is not None and bias.requires_grad)):
        return _multiply(x, weight, scale, bits, precision, bias)
    product = _WithInputGradient.apply(x, weight, scale, bits, precision)
    return product if bias is None else product + bias.to(product.dtype)


def _multiply(
    x: Tensor, weight: Tensor, scale: Tensor, bits: int, precision: Precision, bias: Tensor | None = None
) -> Tensor:
    if x.device.type in ("cpu", "cuda") and _is_watched(x):
        return _opaque_multiply(x, weight, scale, bits, precision, bias)
    return _multiply_now(x, weight, scale, bits, precision, bias)


def _is_watched(x: Tensor) -> bool:
    """Whether a compiler or a tracer looks on, or ``x`` is of a subclass, as FakeTensor, that may have no memory."""
    is_tracing: Callable[[], bool] = torch.jit.is_tracing  # type: ignore[attr-defined]
    return torch.compiler.is_compiling() or is_tracing() or type(x) is not Tensor


def _multiply_now(
    x: Tensor, weight: Tensor, scale: Tensor, bits: int, precision: Precision, bias: Tensor | None
) -> Tensor:
    _require_that_they_fit(x, weight, scale, bits, bias)
    return choose(x, weight, scale, bits, precision).matmul(x, weight, scale, bits, bias)


def _require_that_they_fit(x: Tensor, weight: Tensor, scale: Tensor, bits: int, bias: Tensor | None) -> None:
    """Kernels read memory by address: what is too short would be read beyond its end."""
    if weight.dtype != torch.int8:
        raise ValueError(f"a packed weight is int8, not {weight.dtype}")
    if x.shape[-1] * bits != weight.shape[1] * 8:
        raise ValueError(f"x has {x.shape[-1]} columns, the weight {weight.shape[1] * 8 // bits}")
    for name, tensor in (("scale", scale), ("bias", bias)):
        if tensor is not None and tensor.shape != weight.shape[:1]:
            raise ValueError(f"the {name} is {list(tensor.shape)}, the weight has {len(weight)} rows")
    if any(tensor is not None and tensor.device != weight.device for tensor in (x, scale, bias)):
        devices = {str(tensor.device) for tensor in (x, weight, scale, bias) if tensor is not None}
        raise ValueError(f"x, weight, scale and bias must be on one device, not on {', '.join(sorted(devices))}")


# For torch.compile and the like: one node of a graph, because they cannot look into what ctypes calls, and because the
# choice, and with it the first use of a compiler, belongs to the moment when the tensors are there.
@torch.library.custom_op("glm_model::quantized_matmul", mutates_args=())
def _opaque_multiply(
    x: Tensor, weight: Tensor, scale: Tensor, bits: int, precision: str, bias: Tensor | None = None
) -> Tensor:
    return _multiply_now(x, weight, scale, bits, cast(Precision, precision), bias)


@_opaque_multiply.register_fake
def _shape_of_product(
    x: Tensor, weight: Tensor, scale: Tensor, bits: int, precision: str, bias: Tensor | None = None
) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight))


class _WithInputGradient(torch.autograd.Function):
    """P-Tuning trains a prefix through frozen integers; autograd alone would keep every weight in float."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, bits: int, precision: Precision) -> Tensor:
        ctx.save_for_backward(weight, scale)
        ctx.bits, ctx.precision = bits, precision
        return _multiply(x, weight, scale, bits, precision)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, scale = ctx.saved_tensors
        return _input_gradient(gradients[0], weight, scale, ctx.bits, ctx.precision), None, None, None, None


def _input_gradient(gradient: Tensor, weight: Tensor, scale: Tensor, bits: int, precision: Precision) -> Tensor:
    if torch.compiler.is_compiling():
        return reference.input_gradient(gradient, weight, scale, bits)
    like_x = gradient.new_empty(0, weight.shape[1] * 8 // bits)
    return choose(like_x, weight, scale, bits, precision).input_gradient(gradient, weight, scale, bits)
