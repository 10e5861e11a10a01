"""What the package computes, computed again the slow way: one sequence at a time, masks and positions in plain loops.

Two readings of GLM-130B's evaluation: a target token by token, each from a pass of its own over all that stands before
it; and a whole question in one sequence, as the original packs it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# Sequences as lists of ids. A mask says True where a row may NOT look.


def log_probability(model: Any, context: Sequence[int], blank: int, target: Sequence[int]) -> tuple[float, bool]:
    """Of ``target`` in the blank of ``context`` (with its mask token, without ``<sop>``), and whether it is greedy."""
    total, greedy = 0.0, True
    for count, wanted in enumerate(target):
        ids = [*context, model.config.bos_token_id, *target[:count]]
        mask = prefix_mask(len(ids), len(context))
        scores = _logits(model, ids, mask, _positions(model, ids, len(context), blank))[-1]
        total += float(scores.log_softmax(dim=-1)[wanted])
        greedy = greedy and int(scores.argmax()) == wanted
    return total, greedy


def causal_log_probability(model: Any, text: Sequence[int], target: Sequence[int]) -> float:
    """Of ``target`` behind ``[gMASK] <sop> text``, everything causal but [gMASK], which stands alone in the context."""
    total = 0.0
    for count, wanted in enumerate(target):
        ids = [model.config.gmask_token_id, model.config.bos_token_id, *text, *target[:count]]
        mask = [[column > row for column in range(len(ids))] for row in range(len(ids))]
        total += float(_logits(model, ids, mask, _positions(model, ids, 1, 0))[-1].log_softmax(dim=-1)[wanted])
    return total


def packed_scores(model: Any, context: Sequence[int], blank: int, choices: Sequence[Sequence[int]]) -> list[float]:
    """All choices behind one context, each seeing the context and itself: GLM-130B's own sequence for a question.

    For one row of positions, whose answers all stand at the blank ([MASK]).
    """
    ids, owner = list(context), [-1] * len(context)
    starts = []
    for number, choice in enumerate(choices):
        starts.append(len(ids))
        ids += [model.config.bos_token_id, *choice[:-1]]
        owner += [number] * len(choice)
    positions = [place if who < 0 else blank for place, who in enumerate(owner)]
    mask = [
        [not (owner[column] < 0 or (owner[row] == owner[column] and column <= row)) for column in range(len(ids))]
        for row in range(len(ids))
    ]
    scores = _logits(model, ids, mask, positions).log_softmax(dim=-1)
    return [
        sum(float(scores[start + place, token]) for place, token in enumerate(choice))
        for start, choice in zip(starts, choices, strict=True)
    ]


def prefix_mask(length: int, context: int) -> list[list[bool]]:
    """All see the context; the rest sees what stands before it."""
    return [[column >= context and column > row for column in range(length)] for row in range(length)]


def _positions(model: Any, ids: Sequence[int], context: int, blank: int) -> list[Any]:
    """``context`` tokens are counted; what follows stays at the blank, but after [gMASK] in one row it counts on."""
    answer = range(len(ids) - context)
    if model.config.position_encoding_2d:
        return [[*range(context), *(blank for _ in answer)], [*(0 for _ in range(context)), *(n + 1 for n in answer)]]
    if ids[blank] == model.config.gmask_token_id:
        return list(range(len(ids)))
    return [*range(context), *(blank for _ in answer)]


@torch.no_grad()
def _logits(model: Any, ids: Sequence[int], mask: list[list[bool]], positions: list[Any]) -> Tensor:
    output = model(
        torch.tensor([ids]), attention_mask=torch.tensor(mask)[None, None], position_ids=torch.tensor(positions)[None]
    )
    logits: Tensor = output.logits[0].double()
    return logits
