"""A program in a worker process: started, told what to do, and held still while another one is measured."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Self

_WITH_US = ("setpriv", "--pdeathsig", "KILL")


def apart(count: int) -> list[int]:
    """So many CPUs, as few as possible of which are threads of one core, and far from each other."""
    cpus = sorted(os.sched_getaffinity(0))
    cores = sorted(cpu for cpu in cpus if min(_siblings(cpu)) == cpu)
    step = len(cores) // count
    return cores[: step * count : step] if step else cpus[:count]


def _siblings(cpu: int) -> list[int]:
    """Itself and the other threads of its core, as far as Linux knows; it writes 0,8 or 0-1."""
    listed = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    return [int(number) for number in listed.read_text().replace("-", ",").split(",")] if listed.exists() else [cpu]


class Process:
    """See worker.py for the commands. Runs on ``cpus`` CPUs only, and stands still between commands.

    It ends with this process, even if that is killed: one that stands still would keep its gigabytes for ever.

    Attributes:
        started: when the process was asked for, on :func:`time.perf_counter`'s clock.
        pid: its number.
    """

    def __init__(self, program: str, python: str, path: str, cpus: int, threads: int, **environment: str) -> None:
        worker = Path(__file__).with_name("worker.py")
        mask = ",".join(map(str, apart(cpus)))
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            [*_WITH_US, "taskset", "-c", mask, python, str(worker), program, path, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **environment},
        )
        self.pid = self._process.pid
        self._answer()

    def ask(self, **command: Any) -> Any:
        """The answer to a command."""
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        self._process.send_signal(signal.SIGSTOP)
        return answer

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended with status {self._process.wait()}")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
