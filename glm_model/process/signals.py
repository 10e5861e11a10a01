"""Ends a program that gets SIGTERM or SIGINT (Ctrl-C), from its first lines to its last and as process 1 too.

Process 1, the first of a container, is not ended by a signal that it has no handler for. What a signal does depends on
what the program does:

- Until :func:`answer` is called, while libraries are imported and a model is loaded, it leaves at once: temporary
  folders and compilers are removed, and nothing is unwound. An exception would be raised inside other people's imports,
  where it prints a traceback or is swallowed.
- Then it may unwind: SIGINT raises KeyboardInterrupt and SIGTERM raises SystemExit in the main thread. What has not
  ended after :data:`PATIENCE` seconds, because native code is busy or the exception was swallowed, leaves at once.
- A second signal always leaves at once.

Python calls handlers only in the main thread, and only between two of its instructions. For the times when
that thread is in native code, another one waits on Python's wake-up file descriptor, which is told of a signal at once.
It needs Python's global lock: native code that keeps that lock delays the end.

The exit status is 0 if the program is there to be stopped, 130 after SIGINT and 143 after SIGTERM if not.

This is the first module that a program imports. It imports few others, since signals have their default action until
then: process 1 is not even told of them.
"""

from __future__ import annotations

import enum
import os
import select
import signal
import sys
import threading
import time

TYPE_CHECKING = False  # importing `typing` takes longer than all the others
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, NoReturn

PATIENCE = 3.0
"""Seconds that a program has to unwind; those who stop it wait ten as a rule."""

_NOTE = 0  # written to the watching thread by the handler; no signal has this number


class Answer(enum.Enum):
    """What a signal does."""

    LEAVE = enum.auto()
    """Ends the process at once."""
    UNWIND = enum.auto()
    """Raises an exception in the main thread, and ends the process if that takes long."""
    RAISE = enum.auto()
    """Raises KeyboardInterrupt for the program's own use, as Ctrl-C does that stops an answer and not the chat."""


class _Watch:
    """The handlers of this process, and the thread that sees a signal while the main thread is busy."""

    def __init__(self, ends_well: bool) -> None:
        self.ends_well = ends_well
        self.answers: dict[int, Answer] = {signal.SIGINT: Answer.LEAVE, signal.SIGTERM: Answer.LEAVE}
        self._handled = 0  # the first signal that the handler has seen
        self._lock = threading.RLock()
        self._terminal = _terminal_settings()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before: dict[int, Any] = {}
        self._before_fd = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in self.answers:
            if signal.getsignal(number) is not signal.SIG_IGN:  # a shell's job in the background ignores Ctrl-C
                self._before[number] = signal.signal(number, self._handle)
        threading.Thread(target=self._work, name="glm-signals", daemon=True).start()

    def close(self) -> None:
        """Put back the handlers that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._before_fd)
        os.close(self._writer)  # which ends the thread

    def forget(self) -> None:
        """Let a process that was forked from this one answer signals as any new process does."""
        signal.set_wakeup_fd(-1)
        for number in self._before:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.close(self._writer)
        os.close(self._reader)

    def _answer(self, number: int) -> Answer:
        return self.answers.get(number, Answer.RAISE)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        answer = self._answer(number)
        if answer is Answer.RAISE:
            raise KeyboardInterrupt
        if answer is Answer.LEAVE or self._handled:
            self._leave(number)
        self._handled = number
        os.write(self._writer, bytes([_NOTE]))  # others, such as asyncio, may have taken the wake-up descriptor
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(self._status(number))

    def _work(self) -> None:
        """Wait for signals, and leave when the program should have ended."""
        numbers: list[int] = []
        until: float | None = None
        while True:
            patience = None if until is None else max(0.0, until - time.monotonic())
            if not select.select([self._reader], [], [], patience)[0]:
                self._leave((numbers or [self._handled])[0])
            told = os.read(self._reader, 64)
            if not told:
                os.close(self._reader)
                return
            numbers += [number for number in told if self._answer(number) is not Answer.RAISE]
            if len(numbers) > 1 or (numbers and self._answer(numbers[0]) is Answer.LEAVE):
                self._leave(numbers[0])
            if until is None and (numbers or self._handled):
                until = time.monotonic() + PATIENCE

    def _status(self, number: int) -> int:
        return 0 if self.ends_well else 128 + number

    def _leave(self, number: int) -> NoReturn:
        """End this process, from any thread; other threads that want to wait here, and the main thread with them."""
        from .leftovers import remove_all

        with self._lock:
            remove_all()
            _restore_terminal(self._terminal)
            if number == signal.SIGTERM and not self.ends_well and os.getpid() != 1:
                _die_of(number)
            os._exit(self._status(number))


_watch: _Watch | None = None


def begin(ends_well: bool) -> bool:
    """Answer signals by leaving at once, until :func:`answer` says otherwise.

    If they are answered already, only ``ends_well`` is noted. Threads other than the main one cannot answer signals.

    Args:
        ends_well: the program is there to be stopped, so its exit status is 0.

    Returns:
        whether this call has begun it, so that :func:`end` is the caller's to call.
    """
    global _watch
    if _watch is not None:
        _watch.ends_well = ends_well
        return False
    if os.name != "posix" or threading.current_thread() is not threading.main_thread():
        return False
    _watch = _Watch(ends_well)
    return True


def is_begun() -> bool:
    """Return whether signals are answered here already."""
    return _watch is not None


def answer(*, sigint: Answer, sigterm: Answer = Answer.LEAVE) -> None:
    """Say what the two signals do from now on; without effect where :func:`begin` was not called."""
    if _watch is not None:
        _watch.answers.update({signal.SIGINT: sigint, signal.SIGTERM: sigterm})


def end() -> None:
    """Answer signals as before :func:`begin`."""
    global _watch
    if _watch is not None:
        _watch.close()
        _watch = None


def _after_fork() -> None:
    global _watch
    if _watch is not None:
        _watch.forget()
        _watch = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _die_of(number: int) -> None:
    """End this process by a signal's default action, so that its parent sees what ended it."""
    import ctypes  # `signal.signal` is for the main thread alone

    ctypes.CDLL(None).signal(number, 0)
    os.kill(os.getpid(), number)


def _terminal_settings() -> list[Any] | None:
    """Return the settings of the terminal on standard input, None if there is none or a job in front uses it."""
    import termios  # not on Windows

    try:
        return termios.tcgetattr(0) if os.tcgetpgrp(0) == os.getpgrp() else None
    except (OSError, termios.error):
        return None


def _restore_terminal(settings: list[Any] | None) -> None:
    """Give the terminal back as it was: its settings, and a cursor that is seen, on a line of its own."""
    if settings is None or _terminal_settings() is None:
        return
    import termios

    termios.tcsetattr(0, termios.TCSANOW, settings)
    if sys.stderr is not None and os.isatty(2) and os.environ.get("TERM", "dumb") != "dumb":
        os.write(2, b"\r\x1b[K\x1b[?25h")
