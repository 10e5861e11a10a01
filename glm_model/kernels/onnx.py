"""The kernel for machines without a compiler: onnxruntime's MatMulNBits, which comes in a wheel.

It wants the integers in its own order and unsigned, and rearranges them once more for itself, so each weight is copied
when it is first used and the packed bytes of the file are needed no more: a mapped file leaves memory by itself. The
copy in between is given back, too.

Onnxruntime is fast where it may round activations to 8 bits, in blocks of columns that share a scale, and fastest with
large blocks, in which one outlier coarsens all its neighbours. So each activation becomes a sum of numbers that this
rounding does not change (:func:`_split`): two are more precise than the smallest blocks, three are as good as float32.
They are rows of one product that reads the weight once, so that decoding costs hardly more than with one.
"""

import functools
import mmap
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.weak import WeakIdKeyDictionary

from . import dispatch, trial
from .choice import allowed
from .packing import dequantize

# `InferenceSession.run`: of all outputs (None), given the inputs by name.
_Run = Callable[[None, dict[str, NDArray[np.float32]]], list[NDArray[np.float32]]]


class _Way(NamedTuple):
    """How a product is computed.

    Attributes:
        block: columns that share a scale, for weights by the operator's format, and for activations that are rounded.
        accuracy_level: of the operator; with 4 it rounds activations to 8 bits, with 1 it does not.
        parts: how many numbers an activation becomes.
        negligible: the share of a row's norm below which a further part of it is left out: without outliers one part
            is as precise as ``fast`` has to be, and a prompt is read twice as fast.
    """

    block: int
    accuracy_level: int
    parts: int
    negligible: float = 0.0


_FAST, _EXACT = _Way(256, 4, 2, 0.01), _Way(256, 4, 3)
# Where onnxruntime rounds in another way: blocks that keep outliers from coarsening many neighbours, and no rounding.
_FAST_UNSPLIT, _EXACT_UNSPLIT = _Way(32, 4, 1), _Way(128, 1, 1)

_WEIGHT_ROWS = 256  # that are rearranged at a time
_ROWS = 128  # that are multiplied at a time: the products of the parts take memory

_TINY = torch.finfo(torch.float32).tiny
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_FLOAT, _UINT8 = 1, 2  # ONNX element types

_sessions: WeakIdKeyDictionary = WeakIdKeyDictionary()
_decoding = threading.local()  # threads: of this thread's products while torch has one; otherwise as many as torch


@functools.cache
def _onnxruntime() -> ModuleType | None:
    """Return the module, or None if it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    return onnxruntime


def is_usable() -> bool:
    """Return whether onnxruntime is installed, and the user lets it run."""
    return allowed("onnxruntime") and _onnxruntime() is not None


def supports(x: Tensor, weight: Tensor, scale: Tensor, bits: int) -> bool:
    """Return whether it takes them: activations on the CPU in float32, float16 or bfloat16."""
    return x.device.type == "cpu" and x.dtype in _FLOATS and weight.numel() > 0 and is_usable()


@contextmanager
def one_thread_for_torch() -> Iterator[None]:
    """Leave torch one thread while the block, a decoding step, runs: the cores are for the products.

    After an operation of torch its threads spin for milliseconds in case there is another one, and so the next product
    would wait for a core.
    """
    threads = _decoding.threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        del _decoding.threads


def fast_matmul(x: Tensor, weight: Tensor, scale: Tensor, bits: int, bias: Tensor | None = None) -> Tensor:
    """Return ``x @ (integers * scale).T + bias``; see :func:`glm_model.kernels.dispatch.quantized_matmul`."""
    return _matmul(x, weight, scale, bits, bias, _FAST if _rounds_in_blocks(bits) else _FAST_UNSPLIT)


def exact_matmul(x: Tensor, weight: Tensor, scale: Tensor, bits: int, bias: Tensor | None = None) -> Tensor:
    """Return the same as :func:`fast_matmul`, of activations that are as precise as float32."""
    return _matmul(x, weight, scale, bits, bias, _EXACT if _rounds_in_blocks(bits) else _EXACT_UNSPLIT)


def _matmul(x: Tensor, weight: Tensor, scale: Tensor, bits: int, bias: Tensor | None, way: _Way) -> Tensor:
    session = _session(weight, scale, bits, way)
    rows = x.detach().reshape(-1, x.shape[-1]).float()
    products = [_product(session.run, some, way) for some in rows.split(_ROWS)]
    product = torch.cat(products).to(x.dtype).reshape(*x.shape[:-1], len(weight))
    return product if bias is None else product + bias.to(x.dtype)


def _product(run: _Run, rows: Tensor, way: _Way) -> Tensor:
    """Return the product of float32 activations [rows, in], float32 [rows, out]."""
    parts = _split(rows, way)
    # Of what is 1 at most, so that no square is too large or too small.
    peak = rows.abs().amax(-1, keepdim=True).clamp_min_(_TINY)
    counts = (parts / peak).norm(dim=-1) > way.negligible * (rows / peak).norm(dim=-1)
    counts[0] = True
    (out,) = run(None, {"x": parts[counts].numpy()})
    products = torch.from_numpy(out)
    if len(products) == len(rows):
        return products
    return products.new_zeros(len(rows), products.shape[1]).index_add_(0, counts.nonzero()[:, 1], products)


def _split(rows: Tensor, way: _Way) -> Tensor:
    """Return float32 [parts, rows, in] that add up to ``rows``, [rows, in].

    A part is what rounding to 8 bits makes of the sum of it and all that follow, so that rounding it again changes
    nothing; the last one is what is left. Each is at most 1/254 of the part before, and so is its rounding error.
    """
    columns = rows.shape[1]
    rest = F.pad(rows, (0, -columns % way.block)).unflatten(1, (-(-columns // way.block), way.block))
    parts = []
    for _ in range(way.parts - 1):
        step = rest.abs().amax(-1, keepdim=True) / 127
        parts.append((rest / step.clamp_(min=_TINY)).round_().mul_(step))
        rest = rest - parts[-1]
    return torch.stack([*parts, rest]).flatten(2)[:, :, :columns]


@functools.cache
def _rounds_in_blocks(bits: int) -> bool:
    """Return whether onnxruntime rounds activations with a scale for each block, as :func:`_split` assumes.

    Those of its kernels for ARM that Arm has written have one scale for a whole row. So it is tried, with one row and
    with several, because these may be different kernels, and with a column that is much larger than all others.
    """
    x, weight, scale, _ = trial.operands(5, 1024, 64, bits)
    x[:, 100] *= 1000
    run, _memory = _start(weight, scale, bits, _EXACT)
    wanted = x @ dequantize(weight, scale, bits, torch.float32).T
    return all((_product(run, x[:n], _EXACT) - wanted[:n]).norm() < 1e-5 * wanted[:n].norm() for n in (1, 5))


class _Session(NamedTuple):
    """A product that onnxruntime is ready to compute.

    Attributes:
        made_for: what would make it the wrong one if it changed: where weight and scale lie, how often they were
            written to, and the way but for its parts.
        run: as that of an ``InferenceSession``.
        scale: of the weight; while it is here, no other one lies where it does.
        memory: what it was made from; the addresses have to stay valid as long as it is used.
    """

    made_for: tuple[int, ...]
    scale: Tensor
    run: _Run
    memory: list[mmap.mmap]


def _session(weight: Tensor, scale: Tensor, bits: int, way: _Way) -> _Session:
    """Return the session of this weight, made anew if the weight has changed or another way is wanted.

    What is written into tensors of inference mode, which count no versions, is not seen.
    """
    made_for = (*_identity(weight), *_identity(scale), bits, way.block, way.accuracy_level)
    known = _sessions.get(weight)
    if known is None or known.made_for != made_for:
        known = _Session(made_for, scale, *_start(weight, scale, bits, way))
        if sys.platform == "linux" and not _can_do_without_memory(known, weight.shape[1] * 8 // bits):
            known = _Session(made_for, scale, *_start(weight, scale, bits, way))
        _sessions[weight] = known
    return known


def _identity(tensor: Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


def _start(weight: Tensor, scale: Tensor, bits: int, way: _Way) -> tuple[_Run, list[mmap.mmap]]:
    """Return the ``run`` and the ``memory`` of a new :class:`_Session`."""
    onnxruntime = _onnxruntime()
    assert onnxruntime is not None, "called without asking `is_usable`"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = getattr(_decoding, "threads", torch.get_num_threads())
    # Threads of hundreds of sessions that spin while they wait would take the cores from torch.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    outputs, columns = len(weight), weight.shape[1] * 8 // bits
    blocks = -(-columns // way.block)
    memory = [_pages(outputs * blocks * way.block * bits // 8), _pages(outputs * blocks * 4)]
    integers = torch.frombuffer(memory[0], dtype=torch.uint8).view(outputs, blocks, -1)
    scales = torch.frombuffer(memory[1], dtype=torch.float32)
    # Some rows at a time: large copies that come and go would leave holes in memory that nobody fits into.
    for to, packed in zip(integers.flatten(1).split(_WEIGHT_ROWS), weight.detach().split(_WEIGHT_ROWS), strict=True):
        to[:, : packed.shape[1]] = _unsigned(packed, bits)
    scales.view(outputs, blocks)[:] = scale.detach()[:, None]
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(each.numpy()) for each in (integers, scales)]
    options.add_external_initializers(["w", "s"], values)
    model = product_model(outputs, columns, bits, way)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run, memory


def _pages(size: int) -> mmap.mmap:
    """Return new memory, which can be given back to the system while its addresses stay valid."""
    if sys.platform == "linux":
        return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return mmap.mmap(-1, size)


def _can_do_without_memory(session: _Session, columns: int) -> bool:
    """Give its memory back; return False if the session had no copy of its own and now computes with zeros."""
    x = trial.operands(3, columns, 1, 8).x.numpy()
    (before,) = session.run(None, {"x": x})
    for pages in session.memory:
        pages.madvise(mmap.MADV_DONTNEED)
    (after,) = session.run(None, {"x": x})
    return bool((before == after).all())


def product_model(outputs: int, columns: int, bits: int, way: _Way) -> bytes:
    """Return an ONNX model of one node: input ``x`` float32 [rows, in], output ``y`` float32 [rows, out].

    Its constants are handed over apart: a weight ``w``, uint8 [out, blocks, bytes], and scales ``s``, float32
    [out * blocks].
    """
    blocks = -(-columns // way.block)
    attributes = {
        "K": columns,
        "N": outputs,
        "bits": bits,
        "block_size": way.block,
        "accuracy_level": way.accuracy_level,
    }
    node = [
        *(_text(1, name) for name in ("x", "w", "s")),
        *(_text(2, "y"), _text(4, "MatMulNBits"), _text(7, "com.microsoft")),
        *(_part(5, _text(1, name), _number(3, value), _number(20, 2)) for name, value in attributes.items()),
    ]
    graph = [
        *(_part(1, *node), _text(2, "product")),
        _constant("w", _UINT8, [outputs, blocks, way.block * bits // 8]),
        _constant("s", _FLOAT, [outputs * blocks]),
        *(_part(11, *_matrix("x", columns)), _part(12, *_matrix("y", outputs))),
    ]
    opsets = [_part(8, _text(1, domain), _number(2, version)) for domain, version in (("", 17), ("com.microsoft", 1))]
    return b"".join([_number(1, 8), *opsets, _part(7, *graph)])


def _unsigned(packed: Tensor, bits: int) -> Tensor:
    """Return integers in the operator's form: plus half the range; with 4 bits the even column in the low nibble."""
    if bits == 8:
        return packed.view(torch.uint8) ^ 0x80
    unsigned = packed.view(torch.uint8) ^ 0x88
    return (unsigned << 4) | (unsigned >> 4)


# ---- registration


def problem(device: torch.device) -> str | None:
    """Return None if onnxruntime is installed, "" otherwise: the remedy says all."""
    return "" if _onnxruntime() is None else None


def describe(device: torch.device, precision: dispatch.Precision, why_not_better: str) -> str:
    """Return one line for people; see :class:`.dispatch.Backend`."""
    return f"onnxruntime, {precision}" + (f" ({why_not_better})" if why_not_better else "")


dispatch.register(
    dispatch.Backend(
        "onnxruntime",
        "cpu",
        (
            dispatch.Kernel("onnxruntime", "fast", supports, fast_matmul),
            dispatch.Kernel("onnxruntime", "exact", supports, exact_matmul),
        ),
        problem,
        describe,
        remedy="onnxruntime",
        decoding=one_thread_for_torch,
    )
)


# ---- Protocol Buffers' wire format, as much as those few fields of onnx.proto need: a key (field number and wire
# type), then a number, or a length and that many bytes.


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _part(field: int, *parts: bytes) -> bytes:
    size = sum(map(len, parts))
    return b"".join([_varint(field << 3 | 2), _varint(size), *parts])


def _text(field: int, text: str) -> bytes:
    return _part(field, text.encode())


def _constant(name: str, element: int, shape: list[int]) -> bytes:
    """Return a tensor whose values are elsewhere; the location is a name that nobody reads."""
    elsewhere = _part(13, _text(1, "location"), _text(2, "memory")), _number(14, 1)
    return _part(5, *(_number(1, size) for size in shape), _number(2, element), _text(8, name), *elsewhere)


def _matrix(name: str, columns: int) -> tuple[bytes, bytes]:
    shape = _part(2, _part(1, _text(2, "rows")), _part(1, _number(1, columns)))
    return _text(1, name), _part(2, _part(1, _number(1, _FLOAT), shape))
