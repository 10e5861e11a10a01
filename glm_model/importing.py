"""Importing many modules at once, without looking for garbage among them."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """For a block of imports: hundreds of thousands of objects are made and all of them stay.

    Python looks through them again and again as they become more. With torch and transformers that is an eighth of the
    time until a model can be loaded.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
