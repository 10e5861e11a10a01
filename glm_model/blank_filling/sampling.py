"""Filters the scores of the next token and draws one, as GLM-130B's BaseStrategy does."""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.generation import LogitsProcessor

# The score that the original gives a token that must not be chosen: the lowest float16, not minus infinity.
FILTERED = -65504.0


class SATSamplingProcessor(LogitsProcessor):
    """A filter that applies temperature, then top-k, then top-p, as ``top_k_logits`` of SwissArmyTransformer 0.2.12.

    It differs from transformers' filters: 0 turns top-p off, and a filtered score becomes -65504. Top-p sums the
    probabilities that top-k leaves; the first token with which the sum exceeds ``top_p`` is kept.

    Args:
        temperature: divisor of the scores, above 0.
        top_k: number of scores to keep; scores equal to the last of them are kept too; 0 keeps all.
        top_p: sum of probabilities to keep; 0 keeps all.
    """

    def __init__(self, temperature: float = 1.0, top_k: int = 0, top_p: float = 0.0) -> None:
        self.temperature = temperature
        self.top_k = top_k
        self.top_p = top_p

    def __call__(self, input_ids: Tensor | None, scores: Tensor) -> Tensor:
        """Return the filtered scores, [rows, vocab] as ``scores``; ``input_ids`` is not used."""
        scores = scores / self.temperature
        if self.top_k:
            last_kept = scores.topk(min(self.top_k, scores.shape[-1])).values[:, -1:]
            scores = scores.masked_fill(scores < last_kept, FILTERED)
        if self.top_p:
            scores = scores.masked_fill(self._beyond_top_p(scores), FILTERED)
        return scores

    def _beyond_top_p(self, scores: Tensor) -> Tensor:
        """Return bool [rows, vocab]: True for a token if the sum of all likelier tokens exceeds ``top_p``."""
        descending, order = scores.sort(descending=True)
        is_past = F.softmax(descending, dim=-1).cumsum(dim=-1) > self.top_p
        removed = F.pad(is_past[:, :-1], (1, 0), value=False)
        return torch.zeros_like(removed).scatter(-1, order, removed)


def draw(scores: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Draw ``count`` different entries of scores [..., n] by their softmax. Return indices, LongTensor [..., count]."""
    return torch.multinomial(F.softmax(scores.float(), dim=-1), count, generator=generator)
