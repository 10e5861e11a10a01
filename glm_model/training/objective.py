"""Makes examples of blank infilling: chooses the spans to mask, the model's input and the tokens that it predicts.

The source is the GLM paper (arXiv 2103.10360) section 2.1 and the GLM-130B paper (arXiv 2210.02414) section 2.3. In 30%
of the sequences, short spans are each replaced by a [MASK]; their lengths are drawn from Poisson(3) until they cover
15% of the tokens. In the other 70%, all tokens after a prefix of uniform length are replaced by one [gMASK]. The spans
follow the context in random order, each after a ``<sop>`` whose position is that of the span's mask.

An instruction is an example with a fixed span: the answer. This file handles ids, not texts.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..model.decoder import GLMForCausalLM

IGNORED = -100
SHORT_SPAN_SHARE = 0.3
MASKED_SHARE = 0.15
MEAN_SPAN_LENGTH = 3.0


@dataclass(frozen=True)
class SpecialIds:
    """The ids of [MASK], [gMASK], ``<sop>``, ``<eop>`` and the padding token."""

    mask: int
    gmask: int
    sop: int
    eop: int
    pad: int


@dataclass(frozen=True)
class Example:
    """One sequence, as int32 arrays of the same length.

    Attributes:
        input_ids: [length], the context with its mask tokens, then ``<sop>`` and the tokens of each span.
        position_ids: [2, length]. Row 0 counts through the context; all tokens of a span have the index of its mask.
            Row 1 is 0 in the context and counts from 1 at a span's ``<sop>``.
        targets: [length], the token to predict at each index (not shifted): each span's tokens, then ``<eop>``; -100 in
            the context.
    """

    input_ids: NDArray[np.int32]
    position_ids: NDArray[np.int32]
    targets: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.input_ids)


def fill_example(context: Sequence[int], blanks: Sequence[tuple[int, Sequence[int]]], special: SpecialIds) -> Example:
    """Return the sequence in which a model fills blanks of a context, in the given order.

    Args:
        context: ids with mask tokens.
        blanks: (index of the mask token in the context, ids that fill it) of each blank.
        special: ids of the special tokens.
    """
    ids, row_0, row_1 = list(context), list(range(len(context))), [0] * len(context)
    targets = [IGNORED] * len(context)
    for place, span in blanks:
        ids += [special.sop, *span]
        targets += [*span, special.eop]
        row_0 += [place] * (len(span) + 1)
        row_1 += range(1, len(span) + 2)
    return Example(_int32(ids), _int32([row_0, row_1]), _int32(targets))


def answer_example(prompt: Sequence[int], answer: Sequence[int], special: SpecialIds) -> Example:
    """Return the example of an instruction: prompt, [gMASK], and the answer that fills it."""
    return fill_example([*prompt, special.gmask], [(len(prompt), answer)], special)


def blank_infilling(ids: Sequence[int], rng: random.Random, special: SpecialIds) -> Example:
    """Return an example of a text: with short spans masked (probability 0.3) or all after a prefix (0.7).

    `ids` must not be empty.
    """
    if rng.random() < SHORT_SPAN_SHARE:
        return _short_spans(ids, rng, special)
    cut = rng.randrange(len(ids))
    return answer_example(ids[:cut], ids[cut:], special)


def _short_spans(ids: Sequence[int], rng: random.Random, special: SpecialIds) -> Example:
    context: list[int] = []
    blanks: list[tuple[int, Sequence[int]]] = []
    done = 0
    for start, stop in sample_spans(len(ids), rng):
        context += ids[done:start]
        blanks.append((len(context), ids[start:stop]))
        context.append(special.mask)
        done = stop
    context += ids[done:]
    rng.shuffle(blanks)
    return fill_example(context, blanks, special)


def sample_spans(length: int, rng: random.Random) -> list[tuple[int, int]]:
    """Return spans [start, stop) in ascending order that cover at least 15% of `length` tokens.

    Lengths are drawn from Poisson(3). At least one token lies between two spans. Fewer tokens are covered if no further
    span has room.
    """
    wanted = max(1, round(MASKED_SHARE * length))
    spans: list[tuple[int, int]] = []
    while (missing := wanted - sum(stop - start for start, stop in spans)) > 0:
        size = min(_poisson(rng), length)
        free = [
            start
            for start in range(length - size + 1)
            if all(start + size < other_start or start > other_stop for other_start, other_stop in spans)
        ]
        if size and free:
            start = rng.choice(free)
            spans.append((start, start + size))
        elif missing < length and not _has_room(spans, length):
            break
    return sorted(spans)


def _has_room(spans: Sequence[tuple[int, int]], length: int) -> bool:
    """Return whether a span of one more token is possible that touches no other span."""
    return any(all(i + 1 < start or i > stop for start, stop in spans) for i in range(length))


def _poisson(rng: random.Random) -> int:
    """Draw a number from Poisson(3) with Knuth's method, because `random` has no Poisson distribution."""
    threshold, product, count = np.exp(-MEAN_SPAN_LENGTH), rng.random(), 0
    while product > threshold:
        product *= rng.random()
        count += 1
    return count


def collate(examples: Sequence[Example], pad_token_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return right-padded LongTensors: ids [batch, length], positions [batch, 2, length], targets [batch, length].

    The padding needs no mask: it follows the causal part of a sequence, so no token before it sees it.
    """
    length = max(map(len, examples))

    def padded(rows: Sequence[NDArray[np.int32]], value: int) -> Tensor:
        widths = [[(0, 0)] * (row.ndim - 1) + [(0, length - row.shape[-1])] for row in rows]
        stacked = np.stack([np.pad(row, w, constant_values=value) for row, w in zip(rows, widths, strict=True)])
        return torch.from_numpy(stacked).long()

    return (
        padded([e.input_ids for e in examples], pad_token_id),
        padded([e.position_ids for e in examples], 0),
        padded([e.targets for e in examples], IGNORED),
    )


def infilling_loss(model: GLMForCausalLM, input_ids: Tensor, position_ids: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross entropy (float32 scalar) over all targets of the batch; only their logits are computed.

    Args:
        model: a model with 2-D positions; its masks follow from the ids (the context ends at the first ``<sop>``).
        input_ids: LongTensor [batch, length].
        position_ids: LongTensor [batch, 2, length].
        targets: LongTensor [batch, length]; -100 is not counted.
    """
    hidden = model.model(input_ids=input_ids, position_ids=position_ids, use_cache=False).last_hidden_state
    counted = targets != IGNORED
    logits = model.lm_head(hidden[counted])
    return F.cross_entropy(logits.float(), targets[counted])


def _int32(values: Sequence[int] | Sequence[Sequence[int]]) -> NDArray[np.int32]:
    return np.asarray(values, dtype=np.int32)
