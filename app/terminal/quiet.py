"""Handle the keyboard while an answer is generated: Ctrl-C stops it, other keys wait for the next prompt."""

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
    """Call `stop` at the first Ctrl-C within the block, and raise KeyboardInterrupt at the next one."""
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
    """Switch off the terminal's echo while the block runs. Typed keys go to the next prompt; Ctrl-C still works."""
    try:
        import termios
    except ImportError:  # Windows has no termios, and echoes only while a program reads
        yield
        return
    if not sys.stdin.isatty():
        yield
        return
    descriptor = sys.stdin.fileno()
    before: list[Any] = termios.tcgetattr(descriptor)
    quiet = list(before)
    quiet[0] &= ~termios.ICRNL  # keeps Enter as a carriage return, as prompt_toolkit expects it
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(descriptor, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
