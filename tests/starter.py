"""Runs programs for tests/test_exit_codes.py: reads cases from standard input, prints how each of them ended.

One interpreter imports the slow libraries and forks for each program. What a program raises leaves the
child as it would leave the program.
"""

import ctypes
import gc
import json
import os
import pty
import runpy
import select
import signal
import sys
import tempfile
import termios
import threading
import time
from fcntl import ioctl
from pathlib import Path
from typing import Any, cast

import gradio  # noqa: F401 - slow

import glm_model  # noqa: F401 - slow
from glm_model.process import signals

gc.freeze()  # otherwise each child looks through all of it at its end, which takes longer than the rest

CLONE_NEWPID = 0x20000000
SECONDS = 30  # that a program may take in all
PATIENCE = 0.5  # instead of the three seconds that a program has to unwind
LIBC = ctypes.CDLL(None, use_errno=True)


def run(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run one program and return what tests/test_exit_codes.py calls its End."""
    folder.mkdir()
    (folder / "tmp").mkdir()
    ready, sent = os.pipe()
    screen, terminal = pty.openpty() if case["screen"] else (-1, -1)
    child = os.fork()
    if not child:
        _begin(case, folder, terminal, sent)
        _program(case)
        sys.exit()
    os.close(sent)
    if case["screen"]:
        os.close(terminal)
    shown, asked = _watch(case, child, screen, ready)
    status = _wait(child)
    seconds = time.monotonic() - asked
    os.close(ready)
    texts = [path.read_text() if path.exists() else "" for path in (folder / "out", folder / "err")]
    return {
        "status": None if status == NO_NAMESPACE else status,
        "out": texts[0] + shown,
        "errors": texts[1],
        "seconds": seconds if case["signal"] else 0.0,
        "left": _left(folder),
    }


NO_NAMESPACE = 99  # a status that no program has


def _begin(case: dict[str, Any], folder: Path, terminal: int, sent: int) -> None:
    """Give a forked process its streams, its folder for temporary files, and the signal at its moment."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who started the tests may ignore it
    if case["screen"]:
        os.setsid()
        ioctl(terminal, termios.TIOCSCTTY, 0)
        for stream in range(3):
            os.dup2(terminal, stream)
    else:
        os.dup2(_output(case, folder), 1)
        os.dup2(os.open(folder / "err", os.O_WRONLY | os.O_CREAT), 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if case["process_1"]:
        _become_process_1(sent)
    tempfile.tempdir = str(folder / "tmp")
    os.environ.update(TERM="xterm", XDG_STATE_HOME=str(folder / "state"), COMPILER_LOG=str(folder / "compiler"))
    if case["when"] == "compile":
        os.environ.update(XDG_CACHE_HOME=str(folder / "cache"), CXX=str(folder.parent / "compiler"))
    signals.PATIENCE = PATIENCE
    sys.modules.update({"lm_eval": cast(Any, None)})  # as good as not installed
    if case["signal"] and not case["screen"]:
        sys.addaudithook(lambda event, arguments: _send(case, event, arguments, sent))


def _output(case: dict[str, Any], folder: Path) -> int:
    if case["has_reader"]:
        return os.open(folder / "out", os.O_WRONLY | os.O_CREAT)
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def _become_process_1(sent: int) -> None:
    """Go on as the first process of a new namespace, while the process of before waits and ends likewise."""
    if LIBC.unshare(CLONE_NEWPID):
        os._exit(NO_NAMESPACE)
    first = os.fork()
    if first:
        os.write(sent, f"{first}\n".encode())
        status = os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])
        os._exit(status if status >= 0 else 200)


def _send(case: dict[str, Any], event: str, arguments: tuple[Any, ...], sent: int) -> None:
    """Send this process the signal if an audited event is the moment for it."""
    moments = {
        "load": ("open", "config.json"),
        "busy": ("open", "config.json"),
        "offload": ("open", ".safetensors"),
        "compile": ("subprocess.Popen", "-o"),
    }
    wanted, name = moments[case["when"]]
    if event != wanted:
        return
    if event == "open" and str(arguments[0]).endswith(name):
        if case["when"] == "busy":
            threading.Timer(0.1, _kill, (case, sent)).start()
            _stay_in_native_code()
        _kill(case, sent)
    elif event == "subprocess.Popen" and name in arguments[1]:
        threading.Timer(0.3, _kill, (case, sent)).start()  # the compiler has started its own


def _kill(case: dict[str, Any], sent: int) -> None:
    os.write(sent, b"now\n")
    os.kill(os.getpid(), case["signal"])


def _stay_in_native_code() -> None:
    """Wait for good where no signal is noticed: for a lock that this thread has itself."""
    lock = ctypes.create_string_buffer(64)
    LIBC.pthread_mutex_lock(lock)
    LIBC.pthread_mutex_lock(lock)


def _program(case: dict[str, Any]) -> None:
    sys.argv = [case["started"], *case["arguments"]]
    if case["started"].endswith(".py"):
        runpy.run_path(case["started"], run_name="__main__")
    else:
        runpy.run_module(case["started"], run_name="__main__", alter_sys=True)


def _watch(case: dict[str, Any], child: int, screen: int, ready: int) -> tuple[str, float]:
    """Read a program's terminal, type, and send the signal; return what was shown, and when the signal was sent.

    Without a terminal the program sends itself the signal and tells of it through ``ready``.
    """
    if not case["screen"]:
        while line := os.read(ready, 64):  # until the end, if there is no signal
            if b"now" in line:
                break
        return "", time.monotonic()
    target = int(os.read(ready, 64)) if case["process_1"] else child
    steps = [text.encode() for text in case["screen"]]
    shown, seen, asked = b"", 0, time.monotonic()
    while select.select([screen], [], [], SECONDS)[0]:
        try:
            data = os.read(screen, 65536)
        except OSError:  # the program has ended
            break
        if b"\x1b[6n" in data:
            os.write(screen, b"\x1b[1;1R")  # where is the cursor?
        shown += data
        if steps and steps[0] in shown[seen:]:
            seen = len(shown)
            time.sleep(0.05)  # a prompt is shown just before the keys are read
            if len(steps) > 1:
                os.write(screen, steps[1])
            else:
                os.kill(target, case["signal"])
                asked = time.monotonic()
            steps = steps[2:]
    os.close(screen)
    return shown.decode(errors="replace"), asked


def _wait(child: int) -> int:
    """Return the status of a program, which is killed if it does not end."""
    until = time.monotonic() + SECONDS
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    return os.waitstatus_to_exitcode(ended[1])


def _left(folder: Path) -> list[str]:
    left = [path.name for place in ("tmp", "cache/glm_home") for path in (folder / place).glob("*")]
    left = [name for name in left if name != "build.lock"]
    if (folder / "compiler").exists():
        number = (folder / "compiler").read_text().strip()
        if "sleep" in _command_line(number):
            left.append(f"process {number} of the compiler")
    return left


def _command_line(number: str) -> str:
    try:
        return Path("/proc", number, "cmdline").read_text()
    except OSError:
        return ""


if __name__ == "__main__":
    for number, case in enumerate(json.load(sys.stdin)):
        print(json.dumps(run(case, Path(sys.argv[1], str(number)))), flush=True)
