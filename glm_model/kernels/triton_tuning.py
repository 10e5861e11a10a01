"""Find the fastest tile of a product on this GPU, once in a process for each shape. Needs Triton.

Our own few lines in the place of ``triton.autotune``, which measures also where it must not: in the capture of a CUDA
graph, and on a card that the model nearly fills, where the memory that it overwrites to empty the caches would not fit.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TypeVar

import torch
from triton.runtime.errors import OutOfResources
from triton.testing import do_bench

Tile = TypeVar("Tile")

_ROOM = 1 << 29  # bytes; `do_bench` overwrites half of it
_WARM_UP, _MEASURED = 5, 20  # milliseconds

_found: dict[Hashable, object] = {}


def fastest(shape: Hashable, tiles: Sequence[Tile], run: Callable[[Tile], object], device: torch.device) -> Tile:
    """Return the best of ``tiles`` by the median time of ``run(tile)``; the first where nothing can be measured.

    Args:
        shape: all that the answer depends on, the device included; what was found for it is remembered.
        tiles: a few, each of which costs about a second of compiling when a machine first sees it; the likely best one
            first.
        run: the product with one of them.
        device: any; the interpreter's CPU is not measured.
    """
    if shape in _found:
        return _found[shape]  # type: ignore[return-value]
    if device.type != "cuda" or torch.cuda.is_current_stream_capturing() or torch.cuda.mem_get_info(device)[0] < _ROOM:
        return tiles[0]
    times = [_time(partial(run, tile)) for tile in tiles]
    _found[shape] = best = tiles[times.index(min(times))]
    return best


def _time(run: Callable[[], object]) -> float:
    """Return milliseconds; infinity if the tile needs more shared memory than this GPU has."""
    try:
        return do_bench(run, _WARM_UP, _MEASURED, return_mode="median")
    except OutOfResources:
        return math.inf
