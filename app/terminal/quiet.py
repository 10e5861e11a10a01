"""What the keys do while the program is busy: Ctrl-C stops the answer, the others wait for the next prompt."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def interruptible(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C calls `stop`; pressed again it raises KeyboardInterrupt, for a model that is deep in a step."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed = False

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True
        stop()

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def quiet_keyboard() -> Iterator[None]:
    """Keys typed between prompts are not echoed into an answer; the next prompt gets them. Ctrl-C still works."""
    try:
        import termios
    except ImportError:  # Windows echoes nothing unless somebody reads
        yield
        return
    if not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before: list[Any] = termios.tcgetattr(descriptor)
    quiet = list(before)
    quiet[0] &= ~termios.ICRNL  # Enter must arrive at the prompt as Enter
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(descriptor, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
