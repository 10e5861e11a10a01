"""Move the packed weights of a loaded model out of the page cache while the model is in use already.

A safetensors file is mapped, so a weight is where the kernel's page cache has it: in single pages from all over the
memory, if page faults have filled that cache. A token reads every weight once, and that takes up to a third longer than
from memory which was allocated in one go. To read the file into such memory instead would cost each start a second.

So a model starts on the mapped pages, and a thread makes the kernel break copy-on-write, a little at a time, as a write
of the same value to each page would. Addresses and values stay, and the kernel exchanges each page as a whole, so other
threads may read and write the weights meanwhile. No page is resident twice in the process, and the cache's own can be
dropped, or serve the next start. Where the kernel cannot do that or memory is scarce, weights stay mapped.
"""

import ctypes
import mmap
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from ..quantization.linear import QuantizedWeight
from .free_memory import free_bytes

KEPT_FREE = 1 << 30
"""Bytes of memory that are left to others: the kernel can drop a mapped weight and read it again, a moved one not."""

_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE of Linux 5.14; neither Python nor torch has a name for it
_PIECE_BYTES = 1 << 20  # half a ms, for which mmap and munmap in other threads have to wait
_BYTES_BETWEEN_LOOKS = 64 << 20  # at the free memory
# Times as long as a piece takes a core: 3 GB take half a minute, and a sixteenth of one core meanwhile.
# A low priority instead would stop other threads on a busy machine, while the thread waits for a core and holds a lock
# that they need: Python's own, or the kernel's of the address space.
_PAUSE = 15

_Layers = Sequence[weakref.ref[QuantizedWeight]]


def move_weights(model: nn.Module) -> threading.Thread | None:
    """Start a thread that moves the packed weights of a model on the CPU, and return it; None if there are none.

    The thread keeps no weight for longer than it takes to move a megabyte and to pause, leaves out what is replaced or
    put on another device meanwhile, and raises nothing.
    """
    found = {weight.data_ptr(): module for module in model.modules() if (weight := _weight(module)) is not None}
    if not found or not sys.platform.startswith("linux"):
        return None
    # The last one first: a first prompt comes from the other end, and pages that nobody has read yet are moved sooner.
    layers = [weakref.ref(module) for module in found.values()][::-1]
    thread = threading.Thread(target=_move, args=(layers,), name="glm-weights", daemon=True)
    thread.start()
    return thread


def _weight(layer: nn.Module | None) -> Tensor | None:
    """Return the weight of a packed layer, or None if it is not one of plain bytes in this machine's memory.

    The tensor is a new one on the same memory, which stays when the layer gets another.
    """
    # Not the attribute: a parametrization would compute it.
    weight = layer._parameters.get("weight") if isinstance(layer, QuantizedWeight) else None
    if type(weight) is not nn.Parameter or weight.device.type != "cpu" or not weight.is_contiguous():
        return None
    return weight.detach()


def _move(layers: _Layers) -> None:
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    left = sum(weight.nbytes for layer in layers if (weight := _weight(layer())) is not None)
    until_look = 0
    for start, size in _pieces(layers):
        if until_look <= 0:
            if free_bytes() < left + KEPT_FREE:
                return
            until_look = _BYTES_BETWEEN_LOOKS
        before, begin = start % mmap.PAGESIZE, time.thread_time()
        if madvise(start - before, before + size, _POPULATE_WRITE):
            return  # an older kernel, not enough memory, or a file that was cut
        left -= size
        until_look -= size
        time.sleep(_PAUSE * (time.thread_time() - begin))


def _pieces(layers: _Layers) -> Iterator[tuple[int, int]]:
    """Yield address and size of pieces of the weights, none of which is freed before the next one is asked for."""
    for layer in layers:
        done = 0
        while (weight := _weight(layer())) is not None and done < weight.nbytes:
            size = min(_PIECE_BYTES, weight.nbytes - done)
            yield weight.data_ptr() + done, size
            done += size
