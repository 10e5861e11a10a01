"""ChatGLM-6B in 4 bits on a CPU: this repository next to chatglm.cpp (q4_0) and fastllm (int4), in turns, as ratios.

    python -m benchmarks.peers                                    # everything, all threads
    python -m benchmarks.peers --only 64 --threads 1              # one context, one thread
    python -m benchmarks.peers --only start --programs glm chatglm.cpp --results a.jsonl
    python -m benchmarks.peers --only "" --results a.jsonl        # the table of what is there

Models of the full shape with random weights are made in --folder (11 GB) when they are first needed, and so are the
environments of the other two programs (pip, cmake and a C++ compiler needed). What is measured:

    start   process start to first token of a 16-token prompt, files out of the page cache (cold) and in it (warm)
    64, 512 seconds of a prompt of that length, ms of each token after it, peak resident memory

The programs take turns, one stands still while another one works, and the memory's read bandwidth is measured in every
turn; medians over the rounds count. Each part appends a line of JSON to --results, so that a long run can be split.
Prints a table of all that --results holds, then one JSON line.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from ..quantized_matmul import bandwidth_test, cpu_name
from . import files
from .environments import python_of
from .process import Process
from .table import print_table

MODELS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "glm": ("glm", files.write_glm),
    "chatglm.cpp": ("chatglm_cpp.bin", files.write_chatglm_cpp),
    "fastllm": ("fastllm.flm", files.write_fastllm),
}
VARIANTS = {
    "glm": ("glm", {}),
    "glm exact": ("glm", {"GLM_PRECISION": "exact"}),
    "glm without compiler": ("glm", {"GLM_KERNEL": "onnxruntime"}),
    "glm avx2": ("glm", {"GLM_INSTRUCTIONS": "avx2"}),
    "chatglm.cpp": ("chatglm.cpp", {}),
    "fastllm": ("fastllm", {}),
}
PARTS = ("start", "64", "512")
START_PROMPT = 16


def main() -> int:
    """Measure what is asked for, print everything, return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=(*PARTS, ""), default=PARTS, help="parts to measure now")
    parser.add_argument("--programs", nargs="+", choices=VARIANTS, default=["glm", "chatglm.cpp", "fastllm"])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPUs that a program may use")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=8, help="decoded in a round")
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "glm_home" / "peers")
    parser.add_argument("--results", type=Path, help="default: results.jsonl in the folder")
    arguments = parser.parse_args()
    results = arguments.results or arguments.folder / "results.jsonl"
    torch.set_num_threads(arguments.threads)
    for part in filter(None, arguments.only):
        measured = measure_start(arguments) if part == "start" else measure_context(int(part), arguments)
        with results.open("a") as file:
            line = {"part": part, "threads": arguments.threads, "cpu": cpu_name(), "date": time.strftime("%F")}
            file.write(json.dumps({**line, "programs": measured}) + "\n")
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    print_table(lines)
    print(json.dumps({"benchmark": "peers", "parts": lines}))
    return 0


def open_program(name: str, arguments: argparse.Namespace) -> Process:
    """A process that has its model loaded; on all but one of the CPUs for fastllm, whose workers else fight."""
    program, environment = VARIANTS[name]
    python, path = python_of(program, arguments.folder), model_of(program, arguments.folder)
    threads = max(1, arguments.threads - 1) if program == "fastllm" else arguments.threads
    return Process(program, python, path, arguments.threads, threads, **environment)


def model_of(program: str, folder: Path) -> Path:
    """Its file, written if need be."""
    name, write = MODELS[program]
    if not (folder / name).exists():
        print(f"writing {folder / name}", file=sys.stderr)
        write(folder / name)
    return folder / name


def measure_start(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds from the start of a process to its first token: once cold, then the median of warm rounds."""
    measured: dict[str, Any] = {}
    for name in arguments.programs:
        forget(model_of(VARIANTS[name][0], arguments.folder))
        cold = first_token(name, arguments)
        warm = [first_token(name, arguments) for _ in range(arguments.rounds)]
        measured[name] = {"cold_s": round(cold, 2), "warm_s": round(statistics.median(warm), 2)}
    return measured


def first_token(name: str, arguments: argparse.Namespace) -> float:
    """Seconds; includes Python's own start and imports."""
    with open_program(name, arguments) as process:
        process.ask(prompt=START_PROMPT)
        return time.perf_counter() - process.started


def forget(path: Path) -> None:
    """Take a model's files out of the page cache."""
    for file in path.iterdir() if path.is_dir() else [path]:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def measure_context(context: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Prompt and decoding of each program after a prompt of this length, in turns; and the bandwidth in every turn."""
    read = bandwidth_test(torch.randint(-(2**62), 2**62, (1 << 26,)).view(torch.int8))
    bandwidth: list[float] = []
    decode: dict[str, list[float]] = {name: [] for name in arguments.programs}
    with ExitStack() as stack:
        processes = {name: stack.enter_context(open_program(name, arguments)) for name in arguments.programs}
        for process in processes.values():
            process.ask(prompt=START_PROMPT)  # pages and threads are new
        prompt = {name: process.ask(prompt=context)["seconds"] for name, process in processes.items()}
        for _ in range(arguments.rounds):
            for name, process in processes.items():
                bandwidth.append(read())
                decode[name].append(statistics.median(process.ask(decode=arguments.tokens)["seconds"]))
        peaks = {name: process.ask(memory=True)["peak_bytes"] for name, process in processes.items()}
    return {
        "read GB/s": round(statistics.median(bandwidth), 1),
        **{
            name: {
                "decode_ms": round(statistics.median(decode[name]) * 1e3, 1),
                "decode_ms_rounds": [round(seconds * 1e3, 1) for seconds in decode[name]],
                "prefill_tokens_per_s": round(context / prompt[name], 1),
                "peak_GB": round(peaks[name] / 1e9, 2),
            }
            for name in arguments.programs
        },
    }


if __name__ == "__main__":
    sys.exit(main())
