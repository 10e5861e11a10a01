"""The products of ChatGLM-6B with packed weights on a GPU, against its copy bandwidth and its products of floats.

    python benchmarks/gpu_quantized_matmul.py                       # INT4, float16
    python benchmarks/gpu_quantized_matmul.py --bits 8 --dtype bfloat16 --rows 1 16
    python benchmarks/gpu_quantized_matmul.py --tiles --rows 1      # every way of cutting up the Triton kernels
    TRITON_INTERPRET=1 python benchmarks/gpu_quantized_matmul.py --device cpu --shapes 24x64 --pool 0.00001  # dry run

The weights of a shape lie one after the other in 1 GiB and are taken in turn, so that no cache holds the next. A round
of them is captured in a CUDA graph and replayed: what the GPU needs when nothing is in its way, as in a compiled model.
The same called one by one from Python is the second figure. GB/s count the bytes of the weight as it is stored, once;
the copy's count what it reads and what it writes. Medians over rounds in turns. Prints a table, then one JSON line.
Needs torch and what `import glm_model` does, nothing of app/.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.quantized_matmul import SHAPES
from glm_model.kernels import cpm, reference, triton_backend

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
FLOAT = "torch, unpacked"


class Way(NamedTuple):
    """One way to multiply.

    Attributes:
        once: a product; each call takes the next weight.
        weights: how many of them there are.
        stored: bytes of one.
    """

    once: Callable[[], object]
    weights: int
    stored: int

    def round(self) -> None:
        """Each weight once."""
        for _ in range(self.weights):
            self.once()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, choices=(4, 8), default=4)
    parser.add_argument("--dtype", choices=DTYPES, default="float16")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16, 64, 512])
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), help=f"of {', '.join(SHAPES)}; or 4096x16384")
    parser.add_argument("--without-reference", action="store_true", help="which takes most of the time")
    parser.add_argument("--tiles", action="store_true", help="also each tile of the Triton kernels for few rows")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--pool", type=float, default=1.0, help="GiB that the weights of a shape fill")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args(arguments)
    results = [measure(name, rows, options) for name in options.shapes for rows in options.rows]
    report(results, options)
    return 0


def shape(name: str) -> tuple[int, int]:
    """out_features and in_features of a layer, by its name or as 4096x16384."""
    if name in SHAPES:
        return SHAPES[name]
    outputs, columns = map(int, name.split("x"))
    return outputs, columns


def measure(name: str, rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """For each way milliseconds in a graph and from Python, GB/s, and what that is of the copy's."""
    device, size = torch.device(options.device), int(options.pool * 2**30)
    chosen = ways(name, rows, size, device, options)
    graphs = {path: captured(way, device) for path, way in chosen.items()}
    copy = copying(size, device)
    bandwidths: list[float] = []
    taken: dict[str, list[tuple[float, float]]] = {path: [] for path in chosen}
    for _ in range(options.rounds):
        bandwidths.append(2 * size / seconds(copy, device) / 1e9)
        for path, way in chosen.items():
            taken[path].append((seconds(graphs[path], device), seconds(way.round, device)))
    bandwidth = statistics.median(bandwidths)
    figures = {path: rates(taken[path], way, bandwidth) for path, way in chosen.items()}
    return {"shape": name, "rows": rows, "copy GB/s": round(bandwidth, 1), **figures}


def rates(taken: list[tuple[float, float]], way: Way, bandwidth: float) -> dict[str, float]:
    """The figures of one way from the seconds of its rounds, in a graph and from Python."""
    in_graph, from_python = (statistics.median(times) / way.weights for times in zip(*taken, strict=True))
    rate = way.stored / in_graph / 1e9
    return {
        "ms": round(in_graph * 1e3, 4),
        "ms from Python": round(from_python * 1e3, 4),
        "GB/s": round(rate, 1),
        "of copy": round(rate / bandwidth, 3),
    }


# ---- what is measured


def ways(name: str, rows: int, size: int, device: torch.device, options: argparse.Namespace) -> dict[str, Way]:
    """All that there are here, by name, each over weights that fill ``size`` bytes; at least one weight."""
    torch.manual_seed(0)
    outputs, columns = shape(name)
    x = torch.randn(rows, columns, device=device).to(DTYPES[options.dtype])
    scale = torch.full((outputs,), 0.01, dtype=torch.float16, device=device)
    bias = torch.zeros(outputs, dtype=x.dtype, device=device)
    width = columns * options.bits // 8
    many = (matrices(size, outputs * width), outputs, width)
    packed = list(torch.randint(-128, 128, many, dtype=torch.int8, device=device))
    floats = list(torch.randn(matrices(size, outputs * columns * 2), outputs, columns, device=device).to(x.dtype))
    found = {
        path: in_turn(partial(multiply_by, product, x, scale, options.bits, bias), packed)
        for path, product in kernels(x, options.tiles).items()
        if not (options.without_reference and product is reference_with_bias)
    }
    return {**found, FLOAT: in_turn(lambda weight: F.linear(x, weight, bias), floats)}


def matrices(size: int, of_one: int) -> int:
    """How many fit into ``size`` bytes; at least one."""
    return max(1, size // of_one)


def in_turn(product: Callable[[Tensor], object], weights: list[Tensor]) -> Way:
    """A way that takes one weight after the other, again and again."""
    following = itertools.cycle(weights)
    return Way(lambda: product(next(following)), len(weights), weights[0].nbytes)


def multiply_by(
    product: Callable[..., Tensor], x: Tensor, scale: Tensor, bits: int, bias: Tensor, weight: Tensor
) -> Tensor:
    """The kernels' order of arguments, but the weight last."""
    return product(x, weight, scale, bits, bias)


def kernels(x: Tensor, tiles: bool) -> dict[str, Callable[..., Tensor]]:
    """The backends that work here; if asked for, the tiles of Triton's each."""
    found: dict[str, Callable[..., Tensor]] = {}
    if not x.is_cuda or triton_backend.problem(x.device, x.dtype) is None:
        from glm_model.kernels import triton_fused

        found["triton"] = triton_backend.matmul
        if tiles and len(x) <= triton_fused.MOST_ROWS:
            for tile in triton_fused.tiles(len(x)):
                found[f"triton {tuple(tile)}"] = partial(triton_fused.multiply, tile=tile)
    if x.is_cuda and x.dtype == torch.float16 and cpm.problem(x.device) is None:
        found["cpm_kernels"] = cpm.matmul
    found["reference"] = reference_with_bias
    return found


def reference_with_bias(x: Tensor, weight: Tensor, scale: Tensor, bits: int, bias: Tensor) -> Tensor:
    """What PyTorch's own operators do."""
    return reference.matmul(x, weight, scale, bits) + bias


def copying(size: int, device: torch.device) -> Callable[[], object]:
    """Copies that many bytes to another place."""
    source = torch.zeros(size, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


# ---- how


def captured(way: Way, device: torch.device) -> Callable[[], object]:
    """A round of a way, on a GPU as one graph; warmed up, so that what is compiled and tried on the way is done."""
    for _ in range(3):
        way.once()
    if device.type != "cuda":
        return way.round
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        way.round()
    graph.replay()
    return graph.replay


def seconds(task: Callable[[], object], device: torch.device) -> float:
    """From start to end, on a GPU by its own clock."""
    if device.type != "cuda":
        start = time.perf_counter()
        task()
        return time.perf_counter() - start
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    task()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


# ---- what is printed


def table(results: list[dict[str, Any]]) -> Iterator[str]:
    """For each shape and number of rows a line for each way; the last column says how many times as fast as floats."""
    yield f"{'shape':16}{'rows':>5}  {'way':28}{'ms':>10}{'from Python':>13}{'GB/s':>8}{'of copy':>9}{'speed':>8}"
    for result in results:
        for path, found in result.items():
            if isinstance(found, dict):
                times = f"{found['ms']:10.4f}{found['ms from Python']:13.4f}"
                faster = result[FLOAT]["ms"] / found["ms"]
                shares = f"{found['GB/s']:8.0f}{found['of copy']:9.1%}{faster:7.2f}x"
                yield f"{result['shape']:16}{result['rows']:5}  {path:28}{times}{shares}"


def report(results: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """The table, then the JSON line."""
    name = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else options.device
    bandwidth = statistics.median(result["copy GB/s"] for result in results)
    print(f"{name}, torch {torch.__version__}, INT{options.bits}, {options.dtype}; a copy moves {bandwidth:.0f} GB/s")
    print(*table(results), sep="\n")
    line = {"benchmark": "gpu_quantized_matmul", "gpu": name, "torch": torch.__version__, **vars(options)}
    print(json.dumps({**line, "results": results}))


if __name__ == "__main__":
    sys.exit(main())
