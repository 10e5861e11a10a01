"""Choosing one token as GLM-130B's BaseStrategy does. Knows no model and no text."""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.generation import LogitsProcessor

# What the original writes over a score that must not win: the lowest number of half precision, not minus infinity.
FILTERED = -65504.0


class SATSamplingProcessor(LogitsProcessor):
    """Temperature, then top-k, then top-p, as ``top_k_logits`` of SwissArmyTransformer 0.2.12 filters.

    Unlike transformers' own: 0 turns top-p off, and a filtered score is -65504. The sum of top-p runs over what top-k
    has left, and the token that passes it is kept.

    Args:
        temperature: above 0.
        top_k: keep so many scores, and those equal to the last of them; 0 keeps all.
        top_p: 0 keeps all.
    """

    def __init__(self, temperature: float = 1.0, top_k: int = 0, top_p: float = 0.0) -> None:
        self.temperature = temperature
        self.top_k = top_k
        self.top_p = top_p

    def __call__(self, input_ids: Tensor | None, scores: Tensor) -> Tensor:
        """Filtered scores, [rows, vocab] like ``scores``; ``input_ids`` does not count."""
        scores = scores / self.temperature
        if self.top_k:
            last_kept = scores.topk(min(self.top_k, scores.shape[-1])).values[:, -1:]
            scores = scores.masked_fill(scores < last_kept, FILTERED)
        if self.top_p:
            scores = scores.masked_fill(self._beyond_top_p(scores), FILTERED)
        return scores

    def _beyond_top_p(self, scores: Tensor) -> Tensor:
        """bool like ``scores``: the sum before this token is past ``top_p`` already."""
        descending, order = scores.sort(descending=True)
        is_past = F.softmax(descending, dim=-1).cumsum(dim=-1) > self.top_p
        removed = F.pad(is_past[:, :-1], (1, 0), value=False)
        return torch.zeros_like(removed).scatter(-1, order, removed)


def draw(scores: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Indices of ``count`` different entries of scores [..., n], drawn by their softmax; LongTensor [..., count]."""
    return torch.multinomial(F.softmax(scores.float(), dim=-1), count, generator=generator)
