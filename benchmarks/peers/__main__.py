"""ChatGLM-6B in 4 bits on a CPU: this repository next to other programs, in turns, as ratios.

They are chatglm.cpp (q4_0), fastllm (int4), and llama.cpp (q4_0), which has no ChatGLM-6B and gets a LLaMA with as many
weights.

    python -m benchmarks.peers                                    # everything, all threads
    python -m benchmarks.peers --only 64 --threads 1              # one context, one thread
    python -m benchmarks.peers --only start --programs glm chatglm.cpp --results a.jsonl
    python -m benchmarks.peers --only --results a.jsonl           # the tables of what is there

Models of the full shape with random weights are made in --folder (14 GB) when they are first needed, and so are the
environments of the other programs (pip, cmake and a C++ compiler needed). What is measured:

    start   seconds from the start of a process to the first token of a 16-token prompt, its files out of the page
            cache (cold, once) and in it (warm); and of the imports that this repository cannot do without
    64, 512 seconds of a prompt of that length, of each token after it, peak resident memory, and the share of the
            read bandwidth that decoding with this repository's packed weights reaches
    rows    seconds of a token of 1, 8, 16 and 32 sequences at once, with this repository and llama.cpp

The programs take turns, one stands still while another one works, and the memory's read bandwidth is measured before
every turn. What counts are medians over the rounds, of ratios too: those of two figures of one round.
Each round is a line of JSON in --results, so that a long run can be split: rounds of the same part, CPU, threads and
day belong together. Prints Markdown tables of all that --results holds, then one JSON line.
"""

import argparse
import json
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from .measure import PARTS, VARIANTS, WITHOUT_COMPILER, Setting
from .table import markdown, summaries


def main() -> int:
    """Measure what is asked for, print everything, return 0."""
    arguments = parse()
    results = arguments.results or arguments.folder / "results.jsonl"
    results.parent.mkdir(parents=True, exist_ok=True)
    results.touch()
    setting = Setting(
        folder=arguments.folder,
        programs=arguments.programs,
        threads=arguments.threads,
        fastllm_threads=arguments.fastllm_threads or max(1, arguments.threads - 1),
        rounds=arguments.rounds,
        tokens=arguments.tokens,
    )
    where = {"threads": setting.threads, "cpu": cpu_name(), "date": time.strftime("%F")}
    for part in arguments.only:
        for measured in PARTS[part](setting):
            with results.open("a") as file:
                file.write(json.dumps({"part": part, **where, "round": measured}) + "\n")
    parts = summaries([json.loads(line) for line in results.read_text().splitlines()])
    print("\n\n".join(markdown(part) for part in parts), end="\n\n")
    print(json.dumps({"benchmark": "peers", "parts": parts}))
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS), help="parts to measure now")
    parser.add_argument(
        "--programs", nargs="+", choices=list(VARIANTS), default=["glm", "chatglm.cpp", "llama.cpp", "fastllm"]
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPUs that a program may use")
    parser.add_argument("--fastllm-threads", type=int, help="default: one less, else its workers fight")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=6, help="decoded in a round")
    parser.add_argument("--folder", type=Path, default=Path.home() / ".cache" / "glm_home" / "peers")
    parser.add_argument("--results", type=Path, help="default: results.jsonl in the folder")
    arguments = parser.parse_args()
    if WITHOUT_COMPILER in arguments.programs and find_spec("onnxruntime") is None:
        parser.error(f"{WITHOUT_COMPILER!r} would be the slow reference: pip install onnxruntime")
    return arguments


def cpu_name() -> str:
    """As Linux calls it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown CPU")


if __name__ == "__main__":
    sys.exit(main())
