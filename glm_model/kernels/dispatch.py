"""The product with a packed weight: the function that the layers call, and the register of kernels it chooses from.

A backend (a module that brings kernels) registers itself when it is imported, see :func:`register`; this module imports
none but the reference, which takes everything. So a backend whose file is missing costs its kernels and nothing else.

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

from . import reference
from .choice import NAMES, allowed, wanted

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


class Backend(NamedTuple):
    """A module that brings kernels for one kind of device.

    Attributes:
        name: the value of GLM_KERNEL that asks for it; its place in :data:`.choice.NAMES` is its rank.
        device: the type of device whose tensors it takes.
        kernels: in order of preference, each with the backend's name.
        problem: why it multiplies nothing on a device, or None if it does; "" if ``remedy`` says all. The first call
            may build or try the kernels; later ones are cheap.
        describe: one line for people, where ``problem`` is None: of the device, the precision asked for, and why no
            better backend is used ("" if there is none).
        remedy: what the user can install to have this backend.
        decoding: the context in which the layers of a packed model run while each sequence gets one token.
    """

    name: str
    device: Literal["cpu", "cuda"]
    kernels: tuple[Kernel, ...]
    problem: Callable[[torch.device], str | None]
    describe: Callable[[torch.device, Precision, str], str]
    remedy: str = ""
    decoding: Callable[[], AbstractContextManager[None]] = nullcontext


REFERENCE = Kernel("reference", "exact", reference.supports, reference.matmul)
# Best first. All kernels in one list, because every product goes through it.
_BACKENDS: list[Backend] = []
_KERNELS = [REFERENCE]


def register(backend: Backend) -> None:
    """Add a backend and its kernels.

    Those that :data:`.choice.NAMES` names come in its order, whichever is imported first; any other comes before them,
    the newest first.
    """
    _BACKENDS[:] = sorted([backend, *_BACKENDS], key=_rank)
    _KERNELS[:] = sorted([*backend.kernels, *_KERNELS], key=_rank)


def _rank(named: Backend | Kernel) -> int:
    return NAMES.index(named.name) if named.name in NAMES else -1


def describe(precision: Precision = "exact", device: torch.device | str = "cpu") -> str:
    """Return one line that says which path products on a device take, and why if it is not the fastest.

    Builds or tries the kernel if that was not done yet: where it is called before the first product, that one need not
    wait. See GLM_KERNEL in :mod:`glm_model.kernels.choice`.
    """
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    backends = [backend for backend in _BACKENDS if backend.device == ("cuda" if device.type == "cuda" else "cpu")]
    problems: list[str] = []
    for backend in backends:
        if allowed(backend.name):
            problem = backend.problem(device)
            if problem is None:
                return backend.describe(device, precision, _why_not_better(problems))
            problems.append(problem)
    remedies = [backend.remedy for backend in backends if backend.remedy]
    help_line = f"{' or '.join(remedies)} would help" if remedies else ""
    reasons = "; ".join(filter(None, [_why_not_better(problems), help_line]))
    return f"reference kernel, slow ({reasons})" if reasons else "reference kernel, slow"


def _why_not_better(problems: list[str]) -> str:
    chosen = "" if wanted() == "auto" else f"GLM_KERNEL={wanted()}"
    return "; ".join(filter(None, problems)) or chosen


def decoding(x: Tensor) -> AbstractContextManager[None]:
    """Return the context in which the layers of a packed model run while each sequence gets one token.

    Args:
        x: the hidden states that the first layer is given.
    """
    if torch.compiler.is_compiling() or x.device.type != "cpu":
        return nullcontext()
    for backend in _BACKENDS:
        if backend.device == "cpu" and allowed(backend.name) and backend.problem(x.device) is None:
            return backend.decoding()
    return nullcontext()


def choose(x: Tensor, weight: Tensor, scale: Tensor, bits: int, precision: Precision = "exact") -> Kernel:
    """Return the kernel that :func:`quantized_matmul` uses for these arguments; raise as it does."""
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
    """Return ``x @ (integers * scale).T + bias``, [..., out]; see the module for the arguments.

    It can be differentiated with respect to ``x`` and ``bias``, and then keeps no dequantized weight. The weight gets
    no gradient.

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
    if x.device.type in ("cpu", "cuda") and _is_recorded(x):
        return _opaque_multiply(x, weight, scale, bits, precision, bias)
    return _multiply_now(x, weight, scale, bits, precision, bias)


def _is_recorded(x: Tensor) -> bool:
    """Return whether a compiler or a tracer records the call, or ``x`` is of a subclass that may have no memory."""
    is_tracing: Callable[[], bool] = torch.jit.is_tracing  # type: ignore[attr-defined]
    return torch.compiler.is_compiling() or is_tracing() or type(x) is not Tensor


def _multiply_now(
    x: Tensor, weight: Tensor, scale: Tensor, bits: int, precision: Precision, bias: Tensor | None
) -> Tensor:
    _require_that_they_fit(x, weight, scale, bits, bias)
    return choose(x, weight, scale, bits, precision).matmul(x, weight, scale, bits, bias)


def _require_that_they_fit(x: Tensor, weight: Tensor, scale: Tensor, bits: int, bias: Tensor | None) -> None:
    """Raise ValueError otherwise: kernels read memory by address, and beyond the end of what is too short."""
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
    """The product with its gradient of ``x``: P-Tuning trains a prefix through frozen integers.

    Autograd alone would keep every dequantized weight until the backward pass.
    """

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
