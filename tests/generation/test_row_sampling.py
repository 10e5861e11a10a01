"""Tokens of many rows, chosen at once: by the distribution of transformers, and by each row's own numbers."""

import itertools

import pytest
import torch
from torch import Tensor

from glm_model.errors import GLMError
from glm_model.generation.row_sampling import RowSampler, choose_tokens
from glm_model.generation.sampling import warpers
from glm_model.options import SamplingOptions

SETTINGS = [
    (50, 0.7, 0.95),
    (0, 0.7, 0.95),
    (0, 1.0, 1.0),
    (5, 1.0, 2.0),
    (0, 0.99, 1.7),
    (3, 0.1, 0.5),
    (300, 0.9, 3.0),
    (5000, 1.0, 1.0),
]
"""Top-k, top-p, temperature."""


def scores(rows: int, words: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(rows, words, generator=torch.Generator().manual_seed(seed))


def probabilities(logits: Tensor, top_k: int, top_p: float, temperature: float) -> Tensor:
    """What transformers' processors leave of one row."""
    for warper in warpers(temperature, top_k, top_p):
        logits = warper(None, logits.clone())
    return logits.softmax(dim=-1)[0]


def assert_drawn(logits: Tensor, top_k: int, top_p: float, temperature: float) -> None:
    """Raise AssertionError unless 5,000 draws fit transformers' distribution: none outside, and by chi-square."""
    wanted = probabilities(logits, top_k, top_p, temperature)
    samplers = [RowSampler(temperature, top_k, top_p, seed) for seed in range(1000)]
    counts = torch.zeros(len(wanted))
    for _ in range(5):
        for token in choose_tokens(logits.expand(len(samplers), -1), samplers):
            assert token is not None
            counts[token] += 1
    assert not counts[wanted == 0].any()
    expected = wanted * counts.sum()
    often = expected > 5
    chi_square = ((counts - expected)[often] ** 2 / expected[often]).sum()
    freedom = max(1, int(often.sum()) - 1)
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize(("top_k", "top_p", "temperature"), SETTINGS)
def test_the_distribution_is_that_of_transformers(top_k: int, top_p: float, temperature: float) -> None:
    assert_drawn(scores(1, 600), top_k, top_p, temperature)


@pytest.mark.parametrize(("top_k", "temperature"), [(5, 2.0), (50, 1.0), (0, 1.0)])
def test_tokens_as_likely_as_the_last_one_stay(top_k: int, temperature: float) -> None:
    """As half precision gives them, whose scores are often equal."""
    assert_drawn((2 * scores(1, 300)).round() / 2, top_k, 1.0, temperature)


def test_a_seed_gives_the_same_tokens_alone_and_in_company() -> None:
    logits = scores(len(SETTINGS), 600)

    def samplers() -> list[RowSampler]:
        return [RowSampler(heat, k, p, seed) for seed, (k, p, heat) in enumerate(SETTINGS)]

    together = [choose_tokens(logits, company) for company in itertools.repeat(samplers(), 70)]
    for row, sampler in enumerate(samplers()):
        assert [choose_tokens(logits[row : row + 1], [sampler])[0] for _ in range(70)] == [
            tokens[row] for tokens in together
        ]


def test_numbers_without_a_seed_are_those_of_torch() -> None:
    drawn: list[list[float]] = []
    for _ in range(2):
        torch.manual_seed(3)
        sampler = RowSampler(1.0, 0, 1.0)
        drawn.append([])
        for _ in range(100):
            drawn[-1].append(sampler.draw())
            sampler.go_on()
    assert drawn[0] == drawn[1]
    torch.manual_seed(3)
    assert drawn[0][:64] == torch.rand(64, dtype=torch.float64).tolist()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_row_of_broken_scores_chooses_nothing(value: float) -> None:
    logits = scores(4, 100)
    logits[1, 7] = value
    samplers = [RowSampler(heat, 50, 0.7, 0) for heat in (0.0, 1.0, 1.0, 0.0)]
    chosen = choose_tokens(logits, samplers)
    assert chosen[1] is None
    assert None not in (chosen[0], chosen[2], chosen[3])
    assert chosen[0] == int(logits[0].argmax())
    with pytest.raises(GLMError, match="NaN or infinite"):
        samplers[1](None, logits[1:2])


def test_large_scores_are_not_taken_for_infinite() -> None:
    assert choose_tokens(torch.full((1, 100), 3e38), [RowSampler(0.0, 50, 0.7)]) == [0]


def test_the_settings_are_those_of_a_chat() -> None:
    sampler = RowSampler.from_options(SamplingOptions(temperature=0.5, top_k=3, top_p=0.4, seed=9))
    assert (sampler.temperature, sampler.top_k, sampler.top_p) == (0.5, 3, 0.4)
    assert not sampler.is_greedy
    assert RowSampler.from_options(SamplingOptions(temperature=1e-7)).is_greedy
