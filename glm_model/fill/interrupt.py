"""Turns Ctrl-C into a flag that the filling reads after every token, instead of an exception at any point.

Python ignores exceptions in some places, such as finalizers, so one could be lost. With several ranks, an exception
would stop them at different points.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def noted_interrupts() -> Iterator[Callable[[], bool]]:
    """Record Ctrl-C while the block runs, and give a function that returns whether it was pressed.

    A second Ctrl-C raises KeyboardInterrupt. If the process ignores the signal, as a job in the background of a shell
    does, it goes on ignoring it.
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
