"""Blank infilling against a slow reference: what is cut out, where it stands, what it may see, what it predicts."""

import itertools
import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from glm_model import ChatGLMConfig, ChatGLMForCausalLM
from glm_model.training import objective
from glm_model.training.objective import Example, SpecialIds, answer_example, blank_infilling, collate, fill_example

SPECIAL = SpecialIds(mask=90, gmask=91, sop=92, eop=93, pad=3)


@pytest.fixture(scope="module")
def model() -> ChatGLMForCausalLM:
    torch.manual_seed(0)
    config = ChatGLMConfig(
        vocab_size=96, hidden_size=32, num_layers=2, num_attention_heads=2, inner_hidden_size=64, pad_token_id=3,
        mask_token_id=90, gmask_token_id=91, bos_token_id=92, eos_token_id=93, deepnorm_alpha=2.0,
    )  # fmt: skip
    return ChatGLMForCausalLM(config).eval()


def restored(example: Example) -> list[int]:
    """The text before anything was cut out, rebuilt from the sequence alone."""
    ids = example.input_ids.tolist()
    context = ids[: ids.index(SPECIAL.sop)]
    spans: dict[int, list[int]] = {}
    for place, token in zip(example.position_ids[0].tolist(), example.targets.tolist(), strict=True):
        if token not in (objective.IGNORED, SPECIAL.eop):
            spans.setdefault(place, []).append(token)
    parts = [spans.get(i, []) if token in (SPECIAL.mask, SPECIAL.gmask) else [token] for i, token in enumerate(context)]
    return [token for part in parts for token in part]


def test_answer_follows_the_published_layout() -> None:
    example = answer_example([10, 11], [20, 21, 22], SPECIAL)
    assert example.input_ids.tolist() == [10, 11, 91, 92, 20, 21, 22]
    assert example.position_ids.tolist() == [[0, 1, 2, 2, 2, 2, 2], [0, 0, 0, 1, 2, 3, 4]]
    assert example.targets.tolist() == [-100, -100, -100, 20, 21, 22, 93]


def test_positions_are_those_that_the_model_derives(model: ChatGLMForCausalLM) -> None:
    """What is trained is what generation uses: the positions of the decoder's own rule, for both mask tokens."""
    for example in (
        answer_example([10, 11, 12], [20, 21], SPECIAL),
        fill_example([10, 90, 12, 13], [(1, [20, 21])], SPECIAL),
    ):
        ids = torch.from_numpy(example.input_ids).long()[None]
        assert model.derive_position_ids(ids).tolist() == [example.position_ids.tolist()]


def test_several_spans_each_stand_at_their_mask() -> None:
    example = fill_example([10, 90, 12, 90], [(3, [30]), (1, [20, 21])], SPECIAL)
    assert example.input_ids.tolist() == [10, 90, 12, 90, 92, 30, 92, 20, 21]
    assert example.position_ids.tolist() == [[0, 1, 2, 3, 3, 3, 1, 1, 1], [0, 0, 0, 0, 1, 2, 1, 2, 3]]
    assert example.targets.tolist() == [-100] * 4 + [30, 93, 20, 21, 93]


@pytest.mark.parametrize("length", [1, 2, 3, 7, 40, 200])
def test_nothing_of_a_text_is_lost(length: int) -> None:
    for seed in range(60):
        ids = [10 + i % 70 for i in range(length)]
        assert restored(blank_infilling(ids, random.Random(seed), SPECIAL)) == ids


def test_shares_and_lengths_are_the_papers() -> None:
    """30% [MASK]; lengths Poisson(3) without 0, so mean 3/(1 - e^-3) = 3.157, covering at least 15%; cut uniform."""
    rng = random.Random(7)
    ids = list(range(10, 80)) * 3
    made = [blank_infilling(ids, rng, SPECIAL) for _ in range(3000)]
    short = [example for example in made if SPECIAL.mask in example.input_ids]
    assert 0.27 < len(short) / len(made) < 0.33
    sizes = [stop - start for _ in range(1500) for start, stop in objective.sample_spans(len(ids), rng)]
    assert 3.0 < np.mean(sizes) < 3.3
    assert np.isclose(np.mean(np.array(sizes) == 1), 0.1494 / 0.9502, atol=0.02)
    covered = [int((e.targets >= 0).sum()) - int((e.targets == SPECIAL.eop).sum()) for e in short]
    assert min(covered) >= 0.15 * len(ids) - 1
    assert np.mean(covered) < 0.18 * len(ids)
    suffixes = [int((e.targets >= 0).sum()) - 1 for e in made if SPECIAL.gmask in e.input_ids]
    assert np.isclose(np.mean(suffixes), len(ids) / 2, rtol=0.05)
    assert np.isclose(np.std(suffixes), len(ids) / 12**0.5, rtol=0.05)


def test_spans_do_not_touch() -> None:
    for seed in range(300):
        spans = objective.sample_spans(30, random.Random(seed))
        assert all(stop < start for (_, stop), (start, _) in itertools.pairwise(spans))


def slow_loss(model: ChatGLMForCausalLM, examples: Sequence[Example]) -> float:
    """One sequence at a time with a mask written out cell by cell, the sum of -log p of each target."""
    total, count = 0.0, 0
    for example in examples:
        ids = example.input_ids.tolist()
        context = ids.index(SPECIAL.sop)
        hidden = torch.ones(1, 1, len(ids), len(ids), dtype=torch.bool)
        for row in range(len(ids)):
            for column in range(len(ids)):
                hidden[0, 0, row, column] = column >= context and column > row
        positions = torch.from_numpy(example.position_ids).long()[None]
        logits = model(torch.tensor([ids]), attention_mask=hidden, position_ids=positions).logits[0].double()
        for place, target in enumerate(example.targets.tolist()):
            if target != objective.IGNORED:
                total -= F.log_softmax(logits[place], dim=-1)[target].item()
                count += 1
    return total / count


def test_loss_of_a_padded_batch(model: ChatGLMForCausalLM) -> None:
    rng = random.Random(3)
    examples = [blank_infilling([10 + rng.randrange(70) for _ in range(n)], rng, SPECIAL) for n in (5, 17, 30, 9, 60)]
    assert any(SPECIAL.mask in e.input_ids for e in examples)
    with torch.no_grad():
        loss = objective.infilling_loss(model, *collate(examples, SPECIAL.pad)).item()
        assert loss == pytest.approx(slow_loss(model, examples), rel=1e-5)


def test_single_blank_has_the_loss_of_the_published_labels(model: ChatGLMForCausalLM) -> None:
    """The published code shifts labels by one; ours are in place. The same sequence must cost the same."""
    example = answer_example([10, 11, 12], [20, 21, 22], SPECIAL)
    published_ids = torch.tensor([[*example.input_ids.tolist(), SPECIAL.eop]])
    labels = torch.tensor([[-100] * 5 + [20, 21, 22, SPECIAL.eop]])
    with torch.no_grad():
        ours = objective.infilling_loss(model, *collate([example], SPECIAL.pad))
        assert ours.item() == pytest.approx(model(published_ids, labels=labels).loss.item(), rel=1e-6)
