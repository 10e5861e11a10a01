"""One program in a process of its own: ``python worker.py PROGRAM PATH THREADS``, told what to do by lines of JSON.

    {"prompt": 64}   -> {"seconds": 1.2}            until the first token of the answer
    {"decode": 8}    -> {"seconds": [0.1, ...]}     of each further token
    {"memory": true} -> {"peak_bytes": 123}         the highest resident memory so far
    {"read": true}   -> {"bytes_per_second": 4e10}  the reader's alone

With "rows": 8 a prompt is that of as many sequences, and decoding that of as many of them at once; see measure.py for
the programs that can.
Standard output is the answers' alone; what the programs print goes to standard error.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from programs import END, PROGRAMS

STALE = 2  # tokens that were worked on while nobody looked
RANDOM = random.Random(0)


def main() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    name, path, threads = sys.argv[1:]
    program = PROGRAMS[name](path, int(threads))
    answers.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        answers.write(json.dumps(answer(program, json.loads(line))) + "\n")


def answer(program: Any, command: dict[str, Any]) -> dict[str, Any]:
    """What one line of input asks for."""
    rows = [command["rows"]] if "rows" in command else []
    if "prompt" in command:
        ids = prompt_of(command["prompt"])
        return {"seconds": seconds(lambda: program.prompt(ids, *rows))}
    if "decode" in command:
        for _ in range(STALE):
            program.token(*rows)
        return {"seconds": [seconds(lambda: program.token(*rows)) for _ in range(command["decode"])]}
    if "read" in command:
        return {"bytes_per_second": program.read()}
    return {"peak_bytes": peak_bytes()}


def prompt_of(length: int) -> list[int]:
    """Random ids, never the same: a program may remember a prompt."""
    return [RANDOM.randrange(1000, 100_000) for _ in range(length - len(END))] + list(END)


def peak_bytes() -> int:
    """Not getrusage's, which begins with what the process was forked from."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def seconds(task: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
