"""Many chats at once on a CPU: steps, prompts, arrivals, throughput and sampling, next to this machine's limits.

    python benchmarks/serve.py                                      # everything; half an hour on 2 cores
    python benchmarks/serve.py --parts steps prompts --models fast --contexts 64 512
    python benchmarks/serve.py --parts throughput sampling
    python benchmarks/serve.py --parts steps --models demo --rows 1 2 --contexts 8 --rounds 1   # seconds

The models are the demo model in float32, and one of ChatGLM-6B's shape in INT4 with random weights, which is written
to --folder when it is first needed, in both precisions: `fast` with a float16 cache, `exact` with a float32 one.

    steps       a token of several rows in one pass, by the number of rows, which take turns
    prompts     from a prompt to its first token
    arrivals    a long prompt arrives while seven chats are written: their largest gap from then until it has its first
                token, and how long it waits for that, in company and alone
    throughput  tokens a second of the demo model through the engine, on one thread: requests at once and one after
                another, their prompts from 16 to 112 tokens long; and of one request with the engine and without
    sampling    the choice of the next tokens among 130,528, and by the processors of transformers

A pass takes at least as long as reading what it needs, weights and cache, and as its arithmetic. Beside steps and
prompts stands what they reach of both limits, which are measured before each turn: how fast memory is read, and how
fast the instructions of the kernel's innermost loop work on what is in registers and the first-level cache (`fast`: dot
products of integers; `exact` and float models: fused multiplications and additions). All figures are medians over the
rounds. Prints tables, then one JSON line, in which a figure is a list with an entry for each number of rows or length.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks.quantized_matmul import cpu_name
from benchmarks.serving.chats import measure_arrivals, measure_throughput
from benchmarks.serving.models import MODELS, load_all, load_demo
from benchmarks.serving.passes import measure_prompts, measure_steps
from benchmarks.serving.sampling import WORDS, measure_sampling
from benchmarks.serving.tables import markdown
from glm_model.kernels import build, dispatch

PARTS = ("steps", "prompts", "arrivals", "throughput", "sampling")
READERS = 7  # chats that are written while a long prompt arrives


def main() -> int:
    """Measure what is asked for, print everything, return 0."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    results: dict[str, list[dict[str, Any]]] = {}
    for part, table in measure(arguments):
        print(f"measured {part} {table.get('model', '')}", file=sys.stderr)
        results.setdefault(part, []).append(table)
    print(f"{cpu_name()}, {arguments.threads} threads, {dispatch.describe('fast')}")
    for part in PARTS:
        if part in results:
            print(f"\n{markdown(part, results[part])}")
    line = {"benchmark": "serve", "cpu": cpu_name(), "torch": torch.__version__, **vars(arguments)}
    print("\n" + json.dumps({**line, "results": results}, default=str))
    return 0


def parse() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="of steps and prompts")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32], help="of steps")
    parser.add_argument("--contexts", type=int, nargs="+", default=[64], help="tokens of each row before a step")
    parser.add_argument("--prompts", type=int, nargs="+", default=[64, 512], help="tokens")
    parser.add_argument("--arrivals", type=int, nargs="+", default=[512], help="tokens of the prompts that arrive")
    parser.add_argument("--arrivals-model", choices=MODELS, default="fast")
    parser.add_argument("--requests", type=int, nargs="+", default=[8, 32], help="at once, of throughput")
    parser.add_argument("--answer", type=int, default=64, help="tokens of each answer of throughput")
    parser.add_argument("--sampled-rows", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=3, help="steps in a turn, of which the median counts")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path.home() / ".cache" / "glm_home" / "peers" / "glm",
        help="the model of `fast` and `exact`; that of `python -m benchmarks.peers` by default",
    )
    arguments = parser.parse_args()
    for name in ("rows", "contexts", "prompts", "arrivals", "requests", "answer", "sampled_rows", "tokens", "rounds"):
        least = {"contexts": 3, "prompts": 3}.get(name, 1)  # [gMASK], <sop>, and one to see
        values = getattr(arguments, name)
        if min(values if isinstance(values, list) else [values]) < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}")
    try:
        build.find_compiler()
    except build.BuildError as error:
        parser.error(f"the limits of the machine cannot be measured: {error}")
    return arguments


def measure(arguments: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of a part and what it has measured, one model after the other."""
    if "sampling" in arguments.parts:
        yield "sampling", measure_sampling(arguments.sampled_rows, WORDS, arguments.rounds)
    if "throughput" in arguments.parts:
        torch.set_num_threads(1)
        yield "throughput", measure_throughput(load_demo(), arguments.requests, arguments.answer, arguments.rounds)
        torch.set_num_threads(arguments.threads)
    names = set(arguments.models) if {"steps", "prompts"} & set(arguments.parts) else set()
    if "arrivals" in arguments.parts:
        names.add(arguments.arrivals_model)
    for loaded in load_all([name for name in MODELS if name in names], arguments.folder):
        if loaded.name in arguments.models and "steps" in arguments.parts:
            for context in arguments.contexts:
                yield "steps", measure_steps(loaded, context, arguments.rows, arguments.rounds, arguments.tokens)
        if loaded.name in arguments.models and "prompts" in arguments.parts:
            yield "prompts", measure_prompts(loaded, arguments.prompts, arguments.rounds)
        if loaded.name == arguments.arrivals_model and "arrivals" in arguments.parts:
            context = arguments.contexts[0]
            yield "arrivals", measure_arrivals(loaded, READERS, context, arguments.arrivals, arguments.rounds)


if __name__ == "__main__":
    sys.exit(main())
