"""SAT's filters of scores against the golden ones and against the rule spelled out."""

import pytest
import torch

from glm_model.blank_filling.sampling import SATSamplingProcessor, draw
from tests.blank_filling.slow import filter_scores
from tests.golden.data import GLM130B, expected

GOLDEN_FILTERS = [(0, 0.7), (200, 0.0), (3, 0.3), (40, 0.9), (5, 0.0)]


@pytest.mark.parametrize("stem", ["expected", "expected_fp16"])
@pytest.mark.parametrize(("top_k", "top_p"), GOLDEN_FILTERS)
def test_golden_filters(stem: str, top_k: int, top_p: float) -> None:
    values = expected(GLM130B, stem)
    filtered = SATSamplingProcessor(0.9, top_k, top_p)(None, values["sampling.logits"])
    assert torch.equal(filtered, values[f"sampling.k{top_k}_p{top_p}"])


@pytest.mark.parametrize("top_k", [0, 1, 4, 30, 100])
@pytest.mark.parametrize("top_p", [0.0, 0.05, 0.6, 0.99])
def test_filters_on_drawn_scores(top_k: int, top_p: float) -> None:
    scores = torch.randn(6, 30, generator=torch.Generator().manual_seed(top_k)) * 2
    filtered = SATSamplingProcessor(top_k=top_k, top_p=top_p)(None, scores)
    for row, wanted in zip(filtered.tolist(), scores.tolist(), strict=True):
        assert row == pytest.approx(filter_scores(wanted, min(top_k, 30), top_p))


def test_scores_equal_to_the_last_kept_stay() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0, 2.0]])
    assert SATSamplingProcessor(top_k=2)(None, scores).tolist() == [[3.0, -65504.0, 2.0, 2.0]]


def test_the_given_scores_are_left_alone() -> None:
    scores = torch.randn(2, 9)
    before = scores.clone()
    SATSamplingProcessor(0.5, 2, 0.5)(None, scores)
    assert torch.equal(scores, before)


def test_draws_follow_the_probabilities() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.2, 0.0])
    generator = torch.Generator().manual_seed(0)
    drawn = draw(probabilities.log().expand(20000, -1), 1, generator)
    shares = torch.bincount(drawn.flatten(), minlength=4) / len(drawn)
    assert torch.allclose(shares, probabilities, atol=0.02)


def test_several_draws_are_different() -> None:
    drawn = draw(torch.zeros(200, 5), 5, torch.Generator().manual_seed(0))
    assert all(sorted(row) == [0, 1, 2, 3, 4] for row in drawn.tolist())
