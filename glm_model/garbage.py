"""Making much that stays, modules or a model, without looking for garbage among it."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """For a block that makes hundreds of thousands of objects, all of which stay.

    Python looks through them again and again as they become more. With torch and transformers that is a fifth of the
    time until a model can be used. Nor does it have to look through them all as soon as the block is left: they count
    as old.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if gc.get_freeze_count() == 0:  # otherwise this would let go of what somebody keeps frozen
                gc.freeze()
                gc.unfreeze()  # what was frozen is put with the oldest, without being looked at
            gc.enable()
