"""Computes log-probabilities of targets, in padded batches.

The log-probability is the sum over a target's tokens of their log-softmax, as in ``cond_log_prob`` of GLM-130B's
``evaluation/model.py``. The original puts all options after one copy of their context, where each sees the context and
itself. Here every option is a sequence of its own, which gives the same numbers. Sequences with the same input, such as
options of one token, run once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import GLMError
from ..model.decoder import GLMForCausalLM
from .encoding import ScoredSequence


@dataclass(frozen=True)
class Score:
    """The score that a model gives a target.

    Args:
        log_probability: the natural logarithm of the target's probability.
        is_greedy: True if each token of the target is the likeliest one.
    """

    log_probability: float
    is_greedy: bool


def score(model: GLMForCausalLM, sequences: Sequence[ScoredSequence], batch_size: int = 1) -> list[Score]:
    """Return the scores of sequences, in their order; see :func:`scores_as_computed`."""
    found = dict(scores_as_computed(model, sequences, batch_size))
    return [found[index] for index in range(len(sequences))]


def scores_as_computed(
    model: GLMForCausalLM, sequences: Sequence[ScoredSequence], batch_size: int = 1
) -> Iterator[tuple[int, Score]]:
    """Yield index and score of every sequence, the longest first, so that a lack of memory shows at once.

    Args:
        model: in evaluation mode.
        sequences: what to score; indices refer to this list.
        batch_size: number of different inputs in a forward pass.

    Raises:
        GLMError: the model's scores are not finite.
    """
    indices: dict[tuple[tuple[int, ...], int], list[int]] = {}
    for index, sequence in enumerate(sequences):
        indices.setdefault((sequence.input_ids, len(sequence.target_ids)), []).append(index)
    rows = sorted(indices, key=lambda row: len(row[0]), reverse=True)
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        logits = _last_logits(model, [ids for ids, _ in batch], max(count for _, count in batch))
        for row, row_logits in zip(batch, logits, strict=True):
            log_probabilities = row_logits[-row[1] :].float().log_softmax(dim=-1)
            for index in indices[row]:
                yield index, _score(log_probabilities, sequences[index].target_ids)


def pad_left(rows: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Return ids and their 0/1 attention mask, LongTensors [len(rows), longest row]; padding is on the left."""
    length = max(map(len, rows))
    ids = torch.tensor([[pad_token_id] * (length - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


@torch.no_grad()
def _last_logits(model: GLMForCausalLM, rows: Sequence[Sequence[int]], count: int) -> Tensor:
    """Return the logits of the last ``count`` positions of each row, [len(rows), count, vocab]."""
    ids, mask = (tensor.to(model.device) for tensor in pad_left(rows, model.config.pad_token_id))
    logits: Tensor = model(ids, attention_mask=mask, use_cache=False, logits_to_keep=count).logits
    return logits


def _score(log_probabilities: Tensor, target_ids: Sequence[int]) -> Score:
    """Return the score of a target, given log-probabilities [len(target_ids), vocab] at the positions of its tokens."""
    targets = torch.tensor(target_ids, device=log_probabilities.device)
    total = log_probabilities.gather(-1, targets[:, None]).sum().item()
    if not torch.isfinite(log_probabilities).all():
        raise GLMError("the model's scores are not finite: load it with dtype float32 or bfloat16, or check its files")
    return Score(total, bool((log_probabilities.argmax(dim=-1) == targets).all()))
