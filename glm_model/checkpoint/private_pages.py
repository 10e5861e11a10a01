"""Move the packed weights of a loaded model out of the page cache while the model is in use already.

A safetensors file is mapped, so a weight is where the kernel's page cache has it: in single pages from all over the
memory, if page faults have filled that cache. A token reads every weight once, and that takes up to a third longer than
from memory which was allocated in one go. To read the file into such memory instead would cost each start a second.

So a model starts on the mapped pages, and a thread of low priority makes the kernel break copy-on-write, as a write of
the same value to each page would. Addresses and values stay, and the kernel exchanges each page as a whole, so other
threads may read and write the weights meanwhile. No page is resident twice in the process, and the cache's own can be
dropped, or serve the next start. Where the kernel cannot do that or memory is scarce, weights stay mapped.
"""

import ctypes
import mmap
import os
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from ..process.memory import free_bytes
from ..quantization.linear import QuantizedWeight

KEPT_FREE = 1 << 30
"""Bytes of memory that are left to others: the kernel can drop a mapped weight and read it again, a moved one not."""

_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE of Linux 5.14; neither Python nor torch has a name for it
_PIECE_BYTES = 4 << 20  # some ms, for which mmap and munmap in other threads have to wait
_BYTES_BETWEEN_LOOKS = 64 << 20  # at the free memory
_NICENESS = 15  # a thirtieth of a core, where others want all of it

_Layers = Sequence[weakref.ref[QuantizedWeight]]


def move_weights(model: nn.Module) -> threading.Thread | None:
    """Start a thread that moves the packed weights of a model on the CPU, and return it; None if there are none.

    The thread keeps no weight for longer than it takes to move some megabytes of it, leaves out what is replaced or put
    on another device meanwhile, and raises nothing.
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
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)  # on Linux, that of this thread alone
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    left = sum(weight.nbytes for layer in layers if (weight := _weight(layer())) is not None)
    until_look = 0
    for start, size in _pieces(layers):
        if until_look <= 0:
            if free_bytes() < left + KEPT_FREE:
                return
            until_look = _BYTES_BETWEEN_LOOKS
        before = start % mmap.PAGESIZE
        if madvise(start - before, before + size, _POPULATE_WRITE):
            return  # an older kernel, not enough memory, or a file that was cut
        left -= size
        until_look -= size


def _pieces(layers: _Layers) -> Iterator[tuple[int, int]]:
    """Yield address and size of pieces of the weights, none of which is freed before the next one is asked for."""
    for layer in layers:
        done = 0
        while (weight := _weight(layer())) is not None and done < weight.nbytes:
            size = min(_PIECE_BYTES, weight.nbytes - done)
            yield weight.data_ptr() + done, size
            done += size
