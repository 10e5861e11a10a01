"""What prompt lookup saves on text that quotes its prompt: greedy decoding with and without, the same tokens.

    python benchmarks/prompt_lookup.py                        # the demo model
    python benchmarks/prompt_lookup.py --shape 6b --threads 4 # ChatGLM-6B's shape in INT4, random weights
    python benchmarks/prompt_lookup.py --shape 6b --quoted 0.5

The answer is dictated: a logits processor makes the model say a text of which the share `--quoted` stands in the
prompt, in runs of 32 tokens. What a guess costs and saves is the same as in a real answer.
Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from glm_model.generation.transformers_hooks import generate_steps
from glm_model.loading import DEMO_MODEL, load, set_precision

RUN = 32  # tokens of a quotation


def main() -> int:
    """Measure, print, and return 0 if the tokens are the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("demo", "6b"), default="demo")
    parser.add_argument("--quoted", type=float, default=0.8, help="share of the answer that stands in the prompt")
    parser.add_argument("--lookup", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = load(DEMO_MODEL)[0] if arguments.shape == "demo" else random_6b()
    prompt, answer = dictation(model, arguments.tokens, arguments.quoted)
    rows = [measure(model, prompt, answer, lookup) for lookup in (0, *arguments.lookup)]
    report(rows, arguments)
    return 0


def random_6b() -> Any:
    """The published shape in INT4, head packed too, with the fast kernel."""
    from benchmarks.decode_6b import random_model

    model = random_model(4, True)
    set_precision(model, "fast")
    return model


def dictation(model: Any, tokens: int, quoted: float) -> tuple[Tensor, list[int]]:
    """A prompt [1, length] of random words, and an answer that takes the share ``quoted`` of its runs from it."""
    config = model.config
    words = torch.randint(100, 3000, (8 * RUN,)).tolist()
    answer: list[int] = []
    runs = -(-tokens // RUN)
    for run in range(runs):
        start = RUN * (run % 8)
        is_quoted = round((run + 1) * quoted) > round(run * quoted)
        answer += words[start : start + RUN] if is_quoted else torch.randint(100, 3000, (RUN,)).tolist()
    return torch.tensor([[*words, config.gmask_token_id, config.bos_token_id]]), answer[:tokens]


class Dictate(LogitsProcessor):
    """Makes the model say an answer, whatever it thinks."""

    def __init__(self, prompt_length: int, answer: list[int]) -> None:
        self._start, self._answer = prompt_length, answer

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, self._answer[input_ids.shape[1] - self._start]] = torch.inf
        return scores


def measure(model: Any, prompt: Tensor, answer: list[int], lookup: int) -> dict[str, float]:
    """Seconds per token after the first one, and passes of the model."""
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    hook = model.register_forward_pre_hook(count)
    steps = generate_steps(
        model,
        prompt,
        prompt_lookup_num_tokens=lookup,
        max_length=prompt.shape[1] + len(answer),
        do_sample=False,
        logits_processor=LogitsProcessorList([Dictate(prompt.shape[1], answer)]),
    )
    next(steps)
    start = time.perf_counter()
    *_, (all_ids, _) = steps
    took = time.perf_counter() - start
    hook.remove()
    assert all_ids[0, prompt.shape[1] :].tolist() == answer
    return {"lookup": lookup, "ms_per_token": took / (len(answer) - 1) * 1e3, "passes": passes}


def report(rows: list[dict[str, float]], arguments: argparse.Namespace) -> None:
    """The table, then the JSON line."""
    plain = rows[0]["ms_per_token"]
    print(f"{'guesses a step':<16}{'ms/token':>10}{'passes':>8}{'speed-up':>10}")
    for row in rows:
        row["speedup"] = round(plain / row["ms_per_token"], 2)
        print(f"{row['lookup']:<16}{row['ms_per_token']:>10.2f}{row['passes']:>8}{row['speedup']:>10.2f}")
    print(json.dumps({"benchmark": "prompt_lookup", **vars(arguments), "results": rows}))


if __name__ == "__main__":
    sys.exit(main())
