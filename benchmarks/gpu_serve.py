"""Several chats at once on one GPU: common steps of a model of ChatGLM-6B's shape in half and INT4, against one row.

    python benchmarks/gpu_serve.py                                      # 1, 8 and 32 rows after 64 tokens
    python benchmarks/gpu_serve.py --quantize int4 --contexts 64 512 --rows 8 16
    python benchmarks/gpu_serve.py --model demo --device cpu            # the same steps where there is no GPU

Random weights on the device, as in benchmarks/plan.py. One row alone is decoded as an answer that has the GPU for
itself: each of its steps is one CUDA graph. The others are the rows of one step, which have slots in one cache, as many
answers at once have them: each step is a graph for its number of rows, rounded up to 1, 2, 4, ... All take turns, and a
ratio is that of tokens a second in the same round.

A step takes at least as long as reading what it needs, weights and cache, takes at the speed at which this device
copies memory, measured in every round. Prints tables, then one JSON line, in which a figure is a list with an entry for
each number of rows.
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

from benchmarks.plan import BITS, bandwidth, clock, device_name, random_model
from benchmarks.serving.limits import work_of_step
from benchmarks.serving.rows import ReadyRows, random_prompt
from benchmarks.serving.tables import markdown
from glm_model.generation.passes import DecodingBatch
from glm_model.loading import DTYPES
from glm_model.model.positions import derive_position_ids
from glm_model.plan.estimate import Workload
from glm_model.plan.models import PRESETS, preset


def main() -> int:
    """Measure, print, return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=PRESETS, default="chatglm-6b")
    parser.add_argument("--quantize", nargs="+", choices=BITS, default=["none", "int4"])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--contexts", type=int, nargs="+", default=[64], help="tokens of each row before a step")
    parser.add_argument("--tokens", type=int, default=16, help="steps in a turn, of which the median counts")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=DTYPES, default=None, help="default: float16 on a GPU, float32 on a CPU")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("There is no GPU here; --model demo --device cpu runs the same steps on the CPU.")
    dtype = DTYPES[options.dtype or ("float16" if options.device == "cuda" else "float32")]
    results = [result for kind in options.quantize for result in measure(kind, dtype, options)]
    device = device_name(options.device)
    print(f"{options.model}: {device}, torch {torch.__version__}\n\n{markdown('gpu', results)}\n")
    line = {"benchmark": "gpu_serve", "gpu": device, "torch": torch.__version__, **vars(options)}
    print(json.dumps({**line, "results": results}))
    return 0


def measure(kind: str, dtype: torch.dtype, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a table for each context."""
    config = preset(options.model, quantization_bit=BITS[kind], quantization_embeddings=bool(BITS[kind]))
    torch.manual_seed(0)
    device = torch.device(options.device)
    model = random_model(Workload(config, dtype, max(options.contexts), max(options.rows)), device).eval()
    return [{"weights": kind, **measure_steps(model, context, options)} for context in options.contexts]


def measure_steps(model: Any, context: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the milliseconds of a step, of one row alone and by the number of rows, in medians over the rounds."""
    ids = random_prompt(model, context)
    ready = ReadyRows(model, ids, max(options.rows))
    read = [work_of_step(model, count, context).read for count in options.rows]
    rounds = []
    for number in range(options.rounds + 1):
        speed = bandwidth(model.device, next(model.parameters()))
        alone = step_seconds(model.device, step_alone(model, ids, options.tokens), options.tokens)
        times = [step_seconds(model.device, partial(ready.step, count), options.tokens) for count in options.rows]
        if number:  # kernels are compiled and tuned in the first round
            rounds.append((speed, alone, times))
    ready.leave()
    return {
        "context": context,
        "copy_GBps": round(statistics.median(speed for speed, _, _ in rounds) / 1e9, 1),
        "alone_ms": _median([1e3 * alone for _, alone, _ in rounds]),
        "rows": options.rows,
        "ms": [_median([1e3 * times[place] for _, _, times in rounds]) for place in range(len(read))],
        "tokens_per_s": [
            _median([count / times[place] for _, _, times in rounds]) for place, count in enumerate(options.rows)
        ],
        "ratio": [
            _median([count * alone / times[place] for _, alone, times in rounds])
            for place, count in enumerate(options.rows)
        ],
        "of_memory": [
            _median([size / speed / times[place] for speed, _, times in rounds]) for place, size in enumerate(read)
        ],
    }


@torch.inference_mode()
def step_alone(model: Any, ids: Tensor, tokens: int) -> Callable[[], object]:
    """Return the decoding step of one row that has the device for itself."""
    ids = ids.to(model.device)
    positions = derive_position_ids(model.config, ids, torch.ones_like(ids), ids.shape[1] + tokens + 2)
    batch = DecodingBatch(model)
    rows, logits = batch.insert(ids, positions, quick_steps=True)
    token = logits.argmax(-1)[:, None]

    def step() -> int:
        nonlocal token
        token = batch.step({rows: token})[rows][:, -1].argmax(-1)[:, None]
        return int(token)

    step()  # a graph is recorded here
    return step


def step_seconds(device: torch.device, step: Callable[[], object], tokens: int) -> float:
    """Return the median time of some steps, each until the device has done it."""
    taken = []
    for _ in range(tokens):
        start = clock(device)
        step()
        taken.append(clock(device) - start)
    return statistics.median(taken)


def _median(values: list[float]) -> float:
    return float(f"{statistics.median(values):.4g}")


if __name__ == "__main__":
    sys.exit(main())
