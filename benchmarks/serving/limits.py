"""The least time that this machine needs for a forward pass: memory and arithmetic, measured in the same run."""

import ctypes
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.quantized_matmul import bandwidth_test
from glm_model.generation.row_passes import token_bytes
from glm_model.kernels import build, native
from glm_model.quantization.linear import QuantizedLinear

_READ = 1 << 28  # bytes at the most, of a block whose reading tells the speed of memory
_READINGS = 5
_PRODUCTS = {"integers": 2_000_000_000, "floats": 500_000_000}  # of a thread, which take it some 5 to 20 ms
_SPLIT = 3  # integers that `exact` takes for a number where it multiplies integers; see glm_model/kernels/native.py


@dataclass(frozen=True)
class Speed:
    """What this machine does in a second with all threads.

    Attributes:
        read: bytes of memory that it reads.
        integers: products that it adds up, with the instructions of the kernel for rounded activations (`fast`).
        floats: the same in float32, with fused multiplications and additions.
    """

    read: float
    integers: float
    floats: float


class Machine:
    """Measures the speed of this machine for one model.

    Args:
        model: the model. Weights that the caches of the CPU hold are read faster than memory: so the block that is read
            is as large as the weights, but not larger than 256 MiB, and belongs to them where they are in one piece.

    Raises:
        BuildError: there is no C++ compiler.
    """

    def __init__(self, model: nn.Module) -> None:
        largest = max(model.parameters(), key=lambda parameter: parameter.nbytes).data.flatten().view(torch.int8)
        size = min(weight_bytes(model), _READ) >> 18 << 18 or 1 << 18
        block = largest[:size] if len(largest) >= size else torch.zeros(size, dtype=torch.int8)
        self._read = bandwidth_test(block)
        self._library = ctypes.CDLL(str(build.build(build.instruction_sets()[0], _ARITHMETIC)))
        self._library.multiply_with_threads_of.argtypes = [ctypes.c_void_p]
        self._library.multiply_all.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int]
        self._library.multiply_all.restype = ctypes.c_int64
        self._library.multiply_with_threads_of(native.openmp_of_torch())

    def speed(self) -> Speed:
        """Return the speed now, in medians of some readings, which take a tenth of a second."""
        self._read()  # does not count: the threads may have gone to sleep
        read = statistics.median(self._read() for _ in range(_READINGS)) * 1e9
        integers, floats = (
            statistics.median(self._products(name) for _ in range(_READINGS)) for name in ("integers", "floats")
        )
        return Speed(read, integers, floats)

    def _products(self, name: str) -> float:
        start = time.perf_counter()
        done = self._library.multiply_all(name == "floats", _PRODUCTS[name], torch.get_num_threads())
        return done / (time.perf_counter() - start)


_ARITHMETIC = Path(__file__).with_name("arithmetic.cpp")


def linear_layers(model: nn.Module) -> list[QuantizedLinear | nn.Linear]:
    """Return the linear layers and the head, whose weights every step reads once."""
    return [module for module in model.modules() if isinstance(module, QuantizedLinear | nn.Linear)]


def weight_bytes(model: nn.Module) -> int:
    """Return the bytes of the weights that a step reads."""
    return sum(module.weight.nbytes for module in linear_layers(model))


def products(module: QuantizedLinear | nn.Linear) -> int:
    """Return the number of products that one token takes in a linear layer."""
    return module.in_features * module.out_features


@dataclass(frozen=True)
class Work:
    """What a pass has to do.

    Attributes:
        read: bytes of weights and cache.
        integers: products of packed weights with rounded activations.
        floats: all other products.
    """

    read: int
    integers: int
    floats: int

    def seconds(self, speed: Speed) -> tuple[float, float]:
        """Return the least time that memory takes, and the least time that arithmetic takes."""
        return self.read / speed.read, self.integers / speed.integers + self.floats / speed.floats


def work_of_step(model: Any, rows: int, context: int) -> Work:
    """Return the work of one token of each of so many rows, each of which sees ``context`` tokens and itself."""
    layers = linear_layers(model)
    cache = rows * context * token_bytes(model)
    return _work(layers, weight_bytes(model) + cache, rows, _attention(model, rows, context + 1))


def work_of_prompt(model: Any, length: int) -> Work:
    """Return the work of a prompt: its last token, which alone is the head's, sees all, the context only itself."""
    head = model.get_output_embeddings()
    layers = [layer for layer in linear_layers(model) if layer is not head]
    # The weights are read for the context, and again for the last token.
    context = _work(layers, weight_bytes(model), length - 1, _attention(model, length - 1, length - 1))
    last = work_of_step(model, 1, length - 1)
    return Work(context.read + last.read, context.integers + last.integers, context.floats + last.floats)


def _attention(model: Any, tokens: int, seen: int) -> int:
    """Return the products of tokens with the keys and the values that they see, in all layers."""
    return 2 * tokens * seen * int(model.config.hidden_size) * int(model.config.num_layers)


def _work(layers: list[QuantizedLinear | nn.Linear], read: int, rows: int, attention: int) -> Work:
    integers, floats = 0, attention
    for layer in layers:
        if isinstance(layer, QuantizedLinear) and layer.precision == "fast":
            integers += rows * products(layer)
        elif isinstance(layer, QuantizedLinear) and layer.bits == 4 and rows == 1:  # see csrc/product.h
            integers += _SPLIT * products(layer)
        else:
            floats += rows * products(layer)
    return Work(read, integers, floats)
