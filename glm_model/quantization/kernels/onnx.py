"""The kernel for machines without a compiler: onnxruntime's MatMulNBits, which comes in a wheel.

It wants the integers in its own order and unsigned, and rearranges them once more for itself, so each weight is copied
when it is first used and the packed bytes of the file are needed no more: a mapped file leaves memory by itself.
For ``fast`` onnxruntime rounds activations to 8 bits in blocks of columns; for ``exact`` it multiplies in float32.
"""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from .choice import allowed


class _Way(NamedTuple):
    """How a product is computed.

    Attributes:
        block: columns that share a scale, for weights by the operator's format, and for activations that are rounded.
            There smaller blocks keep outliers from coarsening their neighbours; otherwise they only cost time.
        accuracy_level: of the operator.
    """

    block: int
    accuracy_level: int


_FAST, _EXACT = _Way(32, 4), _Way(128, 1)

_FLOAT, _UINT8 = 1, 2  # ONNX element types

_sessions: WeakIdKeyDictionary = WeakIdKeyDictionary()


@functools.cache
def _onnxruntime() -> Any:
    """The module, with one pool of threads for all products, or None if it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    return onnxruntime


def is_installed() -> bool:
    """Whether there is an onnxruntime to use."""
    return _onnxruntime() is not None


def supports(x: Tensor, weight: Tensor, scale: Tensor, bits: int) -> bool:
    """Floating activations on the CPU, if onnxruntime is installed."""
    return (
        x.device.type == "cpu"
        and weight.device.type == "cpu"
        and allowed("onnxruntime")
        and x.shape[-1] * bits == weight.shape[1] * 8
        and is_installed()
    )


def fast_matmul(x: Tensor, weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    """``x @ (integers * scale).T``; see :func:`glm_model.quantization.kernels.quantized_matmul`."""
    return _matmul(x, weight, scale, bits, _FAST)


def exact_matmul(x: Tensor, weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    """As :func:`fast_matmul`."""
    return _matmul(x, weight, scale, bits, _EXACT)


def _matmul(x: Tensor, weight: Tensor, scale: Tensor, bits: int, way: _Way) -> Tensor:
    states = x.detach().reshape(-1, x.shape[-1]).float().numpy()
    (out,) = _session(weight, scale, bits, way).run(None, {"x": states})
    return torch.from_numpy(out).to(x.dtype).reshape(*x.shape[:-1], len(weight))


def _session(weight: Tensor, scale: Tensor, bits: int, way: _Way) -> Any:
    """The session that holds this weight, made anew if the weight was written to since, or for the other precision."""
    made_for = 0 if weight.is_inference() else weight._version, way
    known = _sessions.get(weight)
    if known is None or known[0] != made_for:
        known = _sessions[weight] = made_for, _make_session(weight, scale, bits, way)
    return known[1]


def _make_session(weight: Tensor, scale: Tensor, bits: int, way: _Way) -> Any:
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads of hundreds of sessions that spin while they wait would take the cores from torch.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    model = product_model(weight, scale, bits, way)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def product_model(weight: Tensor, scale: Tensor, bits: int, way: _Way) -> bytes:
    """An ONNX model of one node: input ``x`` float32 [rows, in], output ``y`` float32 [rows, out]."""
    outputs, columns = len(weight), weight.shape[1] * 8 // bits
    blocks = -(-columns // way.block)
    integers = _unsigned(weight.detach(), bits)
    integers = torch.nn.functional.pad(integers, (0, blocks * way.block * bits // 8 - integers.shape[1]))
    scales = scale.detach().float()[:, None].expand(outputs, blocks).contiguous()
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
        _constant("w", _UINT8, [outputs, blocks, way.block * bits // 8], integers),
        _constant("s", _FLOAT, [outputs * blocks], scales),
        *(_part(11, *_matrix("x", columns)), _part(12, *_matrix("y", outputs))),
    ]
    opsets = [_part(8, _text(1, domain), _number(2, version)) for domain, version in (("", 17), ("com.microsoft", 1))]
    return b"".join([_number(1, 8), *opsets, _part(7, *graph)])


def _unsigned(packed: Tensor, bits: int) -> Tensor:
    """As the operator wants them: the integer plus half the range; with 4 bits the even column in the low nibble."""
    if bits == 8:
        return packed.view(torch.uint8) ^ 0x80
    unsigned = packed.view(torch.uint8) ^ 0x88
    return (unsigned << 4) | (unsigned >> 4)


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


def _constant(name: str, element: int, shape: list[int], values: Tensor) -> bytes:
    dimensions = [_number(1, size) for size in shape]
    return _part(5, *dimensions, _number(2, element), _text(8, name), _part(9, values.numpy().tobytes()))


def _matrix(name: str, columns: int) -> tuple[bytes, bytes]:
    shape = _part(2, _part(1, _text(2, "rows")), _part(1, _number(1, columns)))
    return _text(1, name), _part(2, _part(1, _number(1, _FLOAT), shape))
