"""One program in a process of its own: ``python worker.py PROGRAM PATH THREADS``, told what to do by lines of JSON.

    {"prompt": 64}   -> {"seconds": 1.2}            until the first token of the answer
    {"decode": 8}    -> {"seconds": [0.1, ...]}     of each further token
    {"memory": true} -> {"peak_bytes": 123}         the highest resident memory so far

Standard output is the answers' alone; what the programs print goes to standard error.
"""

import json
import os
import random
import sys
import time
from pathlib import Path

from programs import END, PROGRAMS

STALE = 2  # tokens that were worked on while nobody looked


def main() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    name, path, threads = sys.argv[1:]
    program = PROGRAMS[name](path, int(threads))
    answers.write(json.dumps({"ready": True}) + "\n")
    for line in sys.stdin:
        answers.write(json.dumps(answer(program, json.loads(line))) + "\n")


def answer(program, command):
    """What one line of input asks for."""
    if "prompt" in command:
        length = command["prompt"]
        ids = [random.Random(length).randrange(1000, 100_000) for _ in range(length - len(END))] + list(END)
        return {"seconds": seconds(lambda: program.prompt(ids))}
    if "decode" in command:
        for _ in range(STALE):
            program.token()
        return {"seconds": [seconds(program.token) for _ in range(command["decode"])]}
    return {"peak_bytes": peak_bytes()}


def peak_bytes():
    """Not getrusage's, which begins with what the process was forked from."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def seconds(task):
    """Wall time of one call."""
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
