"""The products of ChatGLM-6B with packed weights, against what this machine's memory allows, measured in the same run.

    python benchmarks/quantized_matmul.py                      # INT4, torch's number of threads
    python benchmarks/quantized_matmul.py --bits 8 --threads 2
    python benchmarks/quantized_matmul.py --paths native-fast onnxruntime --rows 1 8
    python benchmarks/quantized_matmul.py --shapes dense --rows 1 --rounds 1 --pool 64   # whether it runs; no figures

Few rows of activations: GB/s of packed weights, and that over the read bandwidth. Many: billions of additions and
multiplications a second. The weights of a shape lie one after the other in 1 GiB (--pool) of random bytes and are taken
in turn, so that no cache holds the next. Paths and bandwidth take turns too, and medians over the rounds are reported,
so that other work on the machine slows all of them. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor

from glm_model.kernels import build, native, onnx, reference

SHAPES = {
    "query_key_value": (12288, 4096),
    "dense": (4096, 4096),
    "dense_h_to_4h": (16384, 4096),
    "dense_4h_to_h": (4096, 16384),
    "lm_head": (130528, 4096),
}
DEFAULT_PATHS = ("native-fast", "native-exact", "onnxruntime")
FEW = 8  # rows of activations up to which memory is the limit

Product = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def main() -> int:
    """Measure and print; returns 0."""
    known = paths()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, choices=(4, 8), default=4)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--paths", nargs="+", help=f"of {', '.join(known)}; default: {', '.join(DEFAULT_PATHS)}")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pool", type=int, default=1024, help="MiB of weights; more than the caches hold")
    arguments = parser.parse_args()
    largest = max(outputs * columns for outputs, columns in (SHAPES[name] for name in arguments.shapes))
    if arguments.pool << 20 < largest * arguments.bits // 8:
        parser.error(f"--pool {arguments.pool}: a weight of these shapes takes {largest * arguments.bits >> 23} MiB")
    torch.set_num_threads(arguments.threads)
    chosen = {name: known[name] for name in arguments.paths or DEFAULT_PATHS if name in known}
    pool = torch.randint(-(2**62), 2**62, (arguments.pool << 17,)).view(torch.int8)
    results = [
        measure(name, rows, arguments.bits, chosen, pool, arguments.rounds)
        for name in arguments.shapes
        for rows in arguments.rows
    ]
    report(results, list(chosen), arguments)
    return 0


def paths() -> dict[str, Product]:
    """Every way to multiply that this machine has; ``native`` is the best of its instruction sets."""
    found: dict[str, Product] = {}
    for instructions in build.instruction_sets():
        library = native.load(build.build(instructions))
        for name, quantize in (("fast", True), ("exact", False)):
            found[f"{instructions}-{name}"] = native_product(library, quantize)
            found.setdefault(f"native-{name}", native_product(library, quantize))
    if onnx.is_usable():
        found["onnxruntime"] = onnx.fast_matmul
        found["onnxruntime-exact"] = onnx.exact_matmul
    found["reference"] = reference.matmul
    return found


def native_product(library: native.Library, quantize: bool) -> Product:
    """The product in one precision of one library."""
    return lambda x, weight, scale, bits: native.product(library, x, weight, scale, bits, None, quantize)


def bandwidth_test(pool: Tensor) -> Callable[[], float]:
    """A function that reads the whole pool and returns GB/s."""
    source = Path(__file__).parent / "read_bandwidth.cpp"
    library = ctypes.CDLL(str(build.build(build.instruction_sets()[0], source)))
    library.read_with_threads_of.argtypes = [ctypes.c_void_p]
    library.read_all.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int]
    library.read_with_threads_of(native.openmp_of_torch())

    def read() -> float:
        return pool.nbytes / seconds(lambda: library.read_all(pool.data_ptr(), pool.nbytes // 8, threads())) / 1e9

    return read


def threads() -> int:
    """How many of torch's threads are used."""
    return torch.get_num_threads()


def seconds(task: Callable[[], Any]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def multiply_all(product: Product, x: Tensor, weights: Sequence[Tensor], scale: Tensor, bits: int) -> None:
    """Multiply with each weight."""
    for weight in weights:
        product(x, weight, scale, bits)


def weights_in_turn(pool: Tensor, outputs: int, row_bytes: int, most: int) -> Iterator[Tensor]:
    """As many weights as fit into the first ``most`` bytes of the pool, but at least one, again and again."""
    size = outputs * row_bytes
    count = max(1, most // size)
    return itertools.cycle([part.view(outputs, row_bytes) for part in pool[: count * size].split(size)])


def measure(name: str, rows: int, bits: int, chosen: dict[str, Product], pool: Tensor, rounds: int) -> dict[str, Any]:
    """One line of the table: for each path its rate, and for few rows its share of the read bandwidth just before."""
    outputs, columns = SHAPES[name]
    row_bytes = columns * bits // 8
    # onnxruntime rearranges a weight when it first sees it: fewer of them, still more than a cache holds.
    most = {path: pool.nbytes // (4 if path.startswith("onnxruntime") else 1) for path in chosen}
    weights = {path: weights_in_turn(pool, outputs, row_bytes, most[path]) for path in chosen}
    x, scale = torch.randn(rows, columns), torch.rand(outputs).half()
    # With few rows long enough to be timed, and for the threads to be awake.
    calls = max(1, 256_000_000 // (outputs * row_bytes)) if rows <= FEW else 1
    work = outputs * columns * (bits / 8 if rows <= FEW else 2 * rows)
    read = bandwidth_test(pool)
    taken: dict[str, list[tuple[float, float]]] = {path: [] for path in chosen}
    for number in range(rounds + 1):
        for path, product in chosen.items():
            turn = [next(weights[path]) for _ in range(calls)]
            bandwidth = read()
            rate = work * calls / seconds(partial(multiply_all, product, x, turn, scale, bits)) / 1e9
            if number:  # in the first round pages and threads are new
                taken[path].append((rate, bandwidth))
    result: dict[str, Any] = {"shape": name, "rows": rows, "unit": "GB/s" if rows <= FEW else "GOP/s"}
    for path, pairs in taken.items():
        result[path] = round(statistics.median(rate for rate, _ in pairs), 1)
        if rows <= FEW:
            result[f"{path} share"] = round(statistics.median(rate / bandwidth for rate, bandwidth in pairs), 3)
    result["read GB/s"] = round(statistics.median(bandwidth for pairs in taken.values() for _, bandwidth in pairs), 1)
    return result


def report(results: list[dict[str, Any]], names: list[str], arguments: argparse.Namespace) -> None:
    """The table, then the JSON line."""
    print(f"INT{arguments.bits}, {arguments.threads} threads, {cpu_name()}; share of the read bandwidth in brackets")
    print(f"{'shape':16}{'rows':>5}{'read GB/s':>11}      " + "".join(f"{name:>22}" for name in names))
    for result in results:
        shares = [f" [{result[f'{name} share']:4.0%}]" if f"{name} share" in result else "" for name in names]
        cells = [f"{f'{result[name]:.1f}{share}':>22}" for name, share in zip(names, shares, strict=True)]
        print(f"{result['shape']:16}{result['rows']:5}{result['read GB/s']:11} {result['unit']:5}{''.join(cells)}")
    print(json.dumps({"benchmark": "quantized_matmul", "cpu": cpu_name(), **vars(arguments), "results": results}))


def cpu_name() -> str:
    """As the CPU calls itself."""
    return str(torch.cpu.get_capabilities().get("cpu_name", "unknown CPU"))


if __name__ == "__main__":
    sys.exit(main())
