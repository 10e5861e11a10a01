"""Measure how long the choice of the next tokens takes, next to the processors of transformers."""

import statistics
from collections.abc import Sequence
from typing import Any

import torch

from glm_model.generation.row_sampling import RowSampler, choose_tokens
from glm_model.generation.sampling import Sampler, warpers
from glm_model.options import SamplingOptions

from .rows import seconds

WORDS = 130_528  # of ChatGLM-6B
_DEVIATION = 3.0  # of the logits: most of the probability is then among some hundred words


@torch.inference_mode()
def measure_sampling(rows: Sequence[int], words: int, rounds: int) -> dict[str, Any]:
    """Return the milliseconds of a choice with the settings of a chat by the number of rows.

    Args:
        rows: the numbers of rows.
        words: the size of the vocabulary.
        rounds: the number of times that each way has its turn.
    """
    options = SamplingOptions()
    theirs = Sampler(warpers(options.temperature, options.top_k, options.top_p), draws=True)
    samplers = [RowSampler(options.temperature, options.top_k, options.top_p, seed) for seed in range(max(rows))]
    times: dict[tuple[str, int], list[float]] = {}
    for number in range(rounds + 1):
        for count in rows:
            logits = _DEVIATION * torch.randn(count, words)
            ours = seconds(choose_tokens, logits, samplers[:count])
            others = seconds(theirs, logits, logits)  # the processors do not look at the ids, which come first
            if number:
                times.setdefault(("ms", count), []).append(ours)
                times.setdefault(("transformers_ms", count), []).append(others)
    return {
        "words": words,
        "rows": list(rows),
        **{
            name: [round(1e3 * statistics.median(times[name, count]), 3) for count in rows]
            for name in ("ms", "transformers_ms")
        },
    }
