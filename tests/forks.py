"""Processes that run Python programs, forked from one interpreter that has imported the package and its libraries.

This import takes four seconds of a core, more than most of these programs need. Its own tests start an interpreter of
their own, and so does what reads the environment while libraries are imported (OMP_NUM_THREADS, HF_HUB_OFFLINE).
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import termios
from fcntl import ioctl
from functools import cache
from pathlib import Path
from typing import Any, AnyStr

ROOT = Path(__file__).parents[1]
PR_SET_CHILD_SUBREAPER = 36


class Program(subprocess.Popen[AnyStr]):
    """A process that runs ``python ARGUMENT ...``, on Linux as a fork; otherwise what a ``Popen`` is.

    Only the list of arguments, the streams, ``cwd`` and ``env`` are heard. A terminal on standard input becomes the
    process's own.
    """

    def _execute_child(self, *given: Any) -> None:
        """Start the process: the one method of ``Popen`` that differs."""
        if sys.platform != "linux":
            super()._execute_child(*given)  # type: ignore[misc]
            return
        command: list[object] = given[0]
        cwd, env, pipes = given[5], given[6], given[10:16]
        streams = [number if pipe == -1 else pipe for number, pipe in enumerate((pipes[0], pipes[3], pipes[5]))]
        request = {
            "arguments": [*map(str, command[1:])],
            "cwd": str(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
            "has_terminal": pipes[0] != -1 and os.isatty(pipes[0]),
        }
        socket.send_fds(_server(), [json.dumps(request).encode()], streams)
        self.pid = int(_server().recv(64))
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def run(
    command: list[Any], *, input: str = "", timeout: float = 120, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run ``python ARGUMENT ...`` to its end, with its output and errors captured."""
    pipe = subprocess.PIPE
    with Program[str](command, text=True, stdin=pipe, stdout=pipe, stderr=pipe, **options) as program:
        try:
            output, errors = program.communicate(input, timeout)
        except BaseException:
            program.kill()
            raise
    return subprocess.CompletedProcess(command, program.returncode, output, errors)


@cache
def _server() -> socket.socket:
    """Start the interpreter that forks. It ends when this process does."""
    # A fork's parent ends at once, and the fork becomes a child of this process, which can wait for it.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        subprocess.Popen(
            [sys.executable, "-m", "tests.forks", str(its.fileno())],
            cwd=ROOT, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    return ours


def _serve(connection: socket.socket) -> None:
    """Fork for each request; the fork returns from here when its program has ended."""
    while True:
        request, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        if not request:
            return
        reading, writing = os.pipe()
        between = os.fork()
        if not between:
            program = os.fork()
            if program:
                os.write(writing, str(program).encode())
                os._exit(0)
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            for descriptor in (*streams, reading, writing, connection.detach()):
                os.close(descriptor)
            _run(**json.loads(request))
            return
        os.waitpid(between, 0)
        connection.send(os.read(reading, 64))
        for descriptor in (*streams, reading, writing):
            os.close(descriptor)


def _run(arguments: list[str], cwd: str, env: dict[str, str], has_terminal: bool) -> None:
    """Run a program as Python would run it from its command line."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who started the tests may ignore it
    if has_terminal:
        os.setsid()
        ioctl(0, termios.TIOCSCTTY, 0)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    kind, *rest = arguments
    if kind in ("-m", "-c"):
        sys.path[0] = cwd
        sys.argv = [kind, *rest[1:]]
        if kind == "-m":
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.path[0] = str(Path(kind).parent.absolute())
        sys.argv = arguments
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    import glm_model.loading  # noqa: F401 - slow

    gc.freeze()  # otherwise each fork looks through all of it at its end
    _serve(socket.socket(fileno=int(sys.argv[1])))
