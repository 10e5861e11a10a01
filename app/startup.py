"""The start of a front-end: much is imported and made that stays until the program ends.

Imports nothing heavy: it stands around the imports that are.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep Python's garbage collector away from a block whose objects all stay, and from these objects afterwards.

    Python would look through hundreds of thousands of them again and again as they become more: with torch,
    transformers and a model that is a fifth of the time until the program can answer. Only a program of ours may do
    this to its process, not the library.

    Collection goes on as it was after the block, however it ends.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()
