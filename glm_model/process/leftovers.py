"""Keeps account of temporary folders and of programs that run for this one, so that none stays behind.

Python removes and ends them by itself when an exception unwinds. A program that leaves without unwinding calls
:func:`remove_all`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import IO, Mapping  # noqa: UP035 - that of collections.abc has no [] in Python 3.8

_TRIES = 20  # another thread may still write into the folder that is removed
_KEPT = 65536  # characters of a command's output
_GRACE = 1.0  # seconds that a program has to end after SIGTERM

_folders: weakref.WeakSet[tempfile.TemporaryDirectory[str]] = weakref.WeakSet()
_running: weakref.WeakSet[subprocess.Popen[str]] = weakref.WeakSet()


def temporary_folder(prefix: str, place: str | Path | None = None) -> tempfile.TemporaryDirectory[str]:
    """Return a new temporary folder that does not outlive this process.

    Args:
        prefix: the beginning of its name.
        place: the folder to make it in; None is the system's.
    """
    folder = tempfile.TemporaryDirectory(prefix=prefix, dir=place)
    _folders.add(folder)
    return folder


def run_alone(
    command: list[str], timeout: float, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command with the processes that it starts, and return its output; none of them outlives this call.

    A compiler is a chain of processes. ``subprocess.run`` ends the first of them alone. Errors are part of the output,
    of which the first 64 KB are kept.

    Raises:
        OSError: it cannot be started.
        subprocess.TimeoutExpired: it took longer than ``timeout`` seconds, and was ended.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        text=True,
        errors="replace",
        process_group=0,
    ) as process:
        _running.add(process)
        kept: list[str] = []
        reader = threading.Thread(target=_read_beginning, args=(process.stdout, kept), daemon=True)
        reader.start()
        try:
            process.wait(timeout)
            reader.join(_GRACE)  # what the command has left running may hold the pipe open
        finally:
            _end(process)
            reader.join(_GRACE)
    return subprocess.CompletedProcess(command, process.returncode, "".join(kept))


def _read_beginning(stream: IO[str], kept: list[str]) -> None:
    """Append the first characters of a stream to ``kept``, and read the rest too, lest its writer wait."""
    kept.append(stream.read(_KEPT))
    while stream.read(_KEPT):
        pass


def remove_all() -> None:
    """End what still runs and remove the temporary folders, from any thread."""
    for process in list(_running):
        with suppress(OSError):
            _end(process)
    for folder in list(_folders):
        for _ in range(_TRIES):
            shutil.rmtree(folder.name, ignore_errors=True)
            if not Path(folder.name).exists():
                break


def _end(process: subprocess.Popen[str]) -> None:
    """End a process with its whole group: by SIGTERM, at which compilers remove their files, then by SIGKILL."""
    with suppress(ProcessLookupError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        until = time.monotonic() + _GRACE
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
