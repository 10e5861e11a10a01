"""Make the start of a front-end faster by pausing Python's garbage collector.

The module imports only the standard library, since it is used around the slow imports.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause garbage collection while the block runs, and exclude the block's objects from it afterwards.

    The block is one that imports libraries and loads a model, whose objects all stay until the program ends. The
    collector would scan these hundreds of thousands of objects again and again as their number grows. With torch,
    transformers and a model that takes a fifth of the time until the program can answer. The setting concerns the
    whole process, so only the programs use it, not the library.

    Whether the block ends normally or with an exception, the collector is then enabled again if it was before.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()
