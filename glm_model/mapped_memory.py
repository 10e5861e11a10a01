"""Weights in mapped files, brought into the process at once instead of page by page as the first token needs them.

The pages of a file that is in the system's cache still cost a fault each (of 64 KB at best). On the machine where this
was measured they took two seconds of the first token of an INT4 ChatGLM-6B; in one call they take 0.3 s. From a disk
they are read in order.
"""

import ctypes
import sys
from collections.abc import Iterable

import psutil
from torch import Tensor

_POPULATE_READ = 22  # MADV_POPULATE_READ of Linux 5.14; other systems and older kernels refuse the number
_PAGE = 4096  # or larger, where the call then rounds up itself


def populate(tensors: Iterable[Tensor]) -> bool:
    """Bring in the memory of tensors on the CPU, if the machine has room for all of it; returns whether it was done.

    A hint: where the system does not know it, nothing happens and the tensors come in as they are used.
    """
    ranges = {_range(tensor) for tensor in tensors if tensor.device.type == "cpu" and tensor.nbytes}
    if not sys.platform.startswith("linux") or sum(end - start for start, end in ranges) > _available():
        return False
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return all(advise(start, end - start, _POPULATE_READ) == 0 for start, end in sorted(ranges))


def _range(tensor: Tensor) -> tuple[int, int]:
    """Addresses of a tensor's first page and of its end."""
    start = tensor.data_ptr()
    return start - start % _PAGE, start + tensor.nbytes


def _available() -> int:
    """Bytes that can be had without swapping; what is in the cache of files counts."""
    available: int = psutil.virtual_memory().available
    return available
