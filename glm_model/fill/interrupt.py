"""Ctrl-C as a question that the work asks after every token, not an exception in the middle of something.

An exception can be lost where Python must ignore one, and would leave several ranks at different points.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def noted_interrupts() -> Iterator[Callable[[], bool]]:
    """While the block runs Ctrl-C is noted: gives a function that says whether. A second one is a KeyboardInterrupt.

    Where the shell has the signal ignored, as for a job in the background, it stays so.
    """
    noted = False
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal noted
        if noted:
            raise KeyboardInterrupt
        noted = True

    if before is signal.SIG_IGN:
        yield lambda: False
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: noted
    finally:
        signal.signal(signal.SIGINT, before)
