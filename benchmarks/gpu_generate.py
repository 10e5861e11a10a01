"""Tokens from a model of ChatGLM-6B's shape on a GPU: in half, INT8 and INT4.

    python benchmarks/gpu_generate.py                                 # ChatGLM-6B, contexts 64 and 512
    python benchmarks/gpu_generate.py --quantize int4 --contexts 2000 --batch 8
    python benchmarks/gpu_generate.py --model demo --device cpu       # the same steps where there is no GPU

Random weights on the device, as in benchmarks/plan.py. Ways to the same tokens, in turns:

    stream    `generate_steps`, as chat, the page and the terminal use it: each step is one CUDA graph
    plain     the same without graphs
    compiled  `model.generate` with a `StaticCache`: transformers compiles a step and replays it as one CUDA graph

A token takes at least as long as reading the weights that it needs takes at the speed at which this device copies
memory, measured in the same run. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor
from transformers import StaticCache

from benchmarks.plan import BITS, bandwidth, clock, device_name, prompt, random_model
from glm_model.generation.transformers_hooks import generate_steps
from glm_model.loading import DTYPES
from glm_model.plan.estimate import Workload
from glm_model.plan.models import PRESETS, preset

WAYS = ("stream", "plain", "compiled")
FEW = 4  # tokens after which the clock of decoding starts


def main() -> int:
    """Measure, print, return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=PRESETS, default="chatglm-6b")
    parser.add_argument("--quantize", nargs="+", choices=BITS, default=list(BITS))
    parser.add_argument("--contexts", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--tokens", type=int, default=64, help="decoded in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=DTYPES, default=None, help="default: float16 on a GPU, float32 on a CPU")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options = parser.parse_args()
    dtype = DTYPES[options.dtype or ("float16" if options.device == "cuda" else "float32")]
    results = [result for kind in options.quantize for result in measure(kind, dtype, options)]
    report(results, vars(options))
    return 0


def measure(kind: str, dtype: torch.dtype, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each context."""
    device = torch.device(options.device)
    config = preset(options.model, quantization_bit=BITS[kind], quantization_embeddings=bool(BITS[kind]))
    torch.manual_seed(0)
    model = random_model(Workload(config, dtype, max(options.contexts), options.batch), device).eval()
    model.generation_config.eos_token_id = None  # random weights may write anything
    speed = bandwidth(device, next(model.parameters()))
    limit = sum(parameter.nbytes for parameter in model.parameters()) / speed
    common = {"weights": kind, "copy_GBps": speed / 1e9, "limit_ms": limit * 1e3}
    prompts = [prompt(Workload(config, dtype, context, options.batch), device) for context in options.contexts]
    return [{**common, "context": ids.shape[1], **timed(model, ids, options)} for ids in prompts]


def timed(model: Any, ids: Tensor, options: argparse.Namespace) -> dict[str, float]:
    """Medians over rounds in turns: milliseconds of a token each way, and of the prompt."""
    cache = StaticCache(config=model.config, max_cache_len=max(options.contexts) + options.tokens)
    every: dict[str, Callable[[int], None]] = {
        "stream": partial(stream, model, ids),
        "plain": partial(stream, model, ids, graphs=False),
        "compiled": partial(generate, model, ids, cache),
    }
    ways = {name: every[name] for name in options.ways}
    for run in ways.values():
        run(options.tokens)  # what is compiled, tuned or captured on the way is done
    found: dict[str, list[float]] = {name: [] for name in (*(f"{way}_ms" for way in ways), "prompt_ms")}
    for _ in range(options.rounds):
        found["prompt_ms"].append(1e3 * seconds(ids, lambda: stream(model, ids, 1)))
        for name, run in ways.items():
            few, all_ = (seconds(ids, partial(run, count)) for count in (FEW, options.tokens))
            found[f"{name}_ms"].append(1e3 * (all_ - few) / (options.tokens - FEW))
    return {name: statistics.median(times) for name, times in found.items()}


def stream(model: Any, ids: Tensor, tokens: int, graphs: bool = True) -> None:
    """As whoever shows an answer while it is written, with CUDA graphs where there is a GPU."""
    model.runtime.cuda_graphs = graphs
    for _ in generate_steps(model, ids, do_sample=False, max_new_tokens=tokens):
        pass


def generate(model: Any, ids: Tensor, cache: StaticCache, tokens: int) -> None:
    """transformers compiles a step of a cache that does not grow."""
    cache.reset()
    model.generate(ids, do_sample=False, max_new_tokens=tokens, cache=cache)


def seconds(ids: Tensor, run: Callable[[], Any]) -> float:
    """Until the device has done it."""
    start = clock(ids.device)
    run()
    return clock(ids.device) - start


def report(results: list[dict[str, Any]], options: dict[str, Any]) -> None:
    """The table, then the JSON line."""
    device = device_name(options["device"])
    print(f"{options['model']}, batch {options['batch']}: {device}, torch {torch.__version__}")
    print("".join(f"{name:>13}" for name in results[0]))
    for result in results:
        print("".join(f"{value:13.3f}" if isinstance(value, float) else f"{value:>13}" for value in result.values()))
    line = {"benchmark": "gpu_generate", "gpu": device, "torch": torch.__version__, **options}
    print(json.dumps({**line, "results": results}))


if __name__ == "__main__":
    sys.exit(main())
