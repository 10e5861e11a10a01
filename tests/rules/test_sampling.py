"""Choosing a token: temperature, then top-k, then top-p; 0 is greedy; and how GLM-130B's own filter differs."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from glm_model import SamplingOptions, stream_text
from glm_model.blank_filling.sampling import SATSamplingProcessor
from tests.rules import tiny
from tests.rules.spelling import NumberTokenizer
from tests.rules.tiny import GMASK, SOP, scripted

PROMPT = [7, 8, GMASK, SOP]


def scores_of(*probabilities: float) -> Tensor:
    """Scores [vocabulary] under which tokens 9, 10, 11, ... have these probabilities and all others next to none."""
    scores = torch.full((tiny.VOCABULARY,), -60.0)
    scores[9 : 9 + len(probabilities)] = torch.tensor(probabilities).log()
    return scores


def drawn(scores: Tensor, draws: int = 12, **settings: float) -> set[int]:
    """The tokens that as many seeds draw."""
    model = tiny.chatglm()
    scripted(model, [scores] * draws)
    chosen = set()
    for seed in range(draws):
        options = SamplingOptions(seed=seed, **settings)  # type: ignore[arg-type]
        first = next(iter(stream_text(model, NumberTokenizer(), PROMPT, options)))
        chosen.add(int(first.text))
    return chosen


@pytest.mark.parametrize("temperature", [0, 1e-7, 9e-7])
def test_temperature_0_is_greedy(temperature: float) -> None:
    """Even where the best score is the best by a billionth, which a temperature of 1e-7 would leave to chance."""
    even = torch.zeros(tiny.VOCABULARY)
    even[9] = 1e-9
    assert drawn(even, temperature=temperature, top_p=1.0, top_k=0, draws=8) == {9}


def test_temperature_is_drawn_with_otherwise() -> None:
    assert drawn(scores_of(0.5, 0.5), temperature=1.0, top_p=1.0) == {9, 10}


def test_order_top_k_before_top_p() -> None:
    """Of 40%, 31% and 29% the best two make 56% and 44%, of which the first passes 50% alone; not so of all three."""
    assert drawn(scores_of(0.40, 0.31, 0.29), temperature=1.0, top_k=2, top_p=0.5) == {9}
    assert drawn(scores_of(0.40, 0.31, 0.29), temperature=1.0, top_k=0, top_p=0.5) == {9, 10}


def test_order_temperature_before_top_p() -> None:
    """At half the temperature 45%, 30% and 25% become 57%, 25% and 18%."""
    assert drawn(scores_of(0.45, 0.30, 0.25), temperature=0.5, top_k=0, top_p=0.5) == {9}


def test_top_p_keeps_the_token_that_passes_it() -> None:
    assert drawn(scores_of(0.5, 0.3, 0.2), temperature=1.0, top_k=0, top_p=0.6) == {9, 10}


# ---- SwissArmyTransformer's filter

Filter = Callable[[Tensor], Tensor]


def kept(choose: Filter, *probabilities: float) -> list[int]:
    scores = choose(torch.tensor([probabilities]).log())
    assert scores.isfinite().all()
    return [i for i, score in enumerate(scores[0].tolist()) if score != -65504.0]


def sat(temperature: float = 1.0, top_k: int = 0, top_p: float = 0.0) -> Filter:
    processor = SATSamplingProcessor(temperature, top_k, top_p)
    return lambda scores: processor(None, scores)


def test_sat_order_temperature_top_k_top_p() -> None:
    assert kept(sat(top_k=2, top_p=0.5), 0.40, 0.31, 0.29) == [0]
    assert kept(sat(top_p=0.5), 0.40, 0.31, 0.29) == [0, 1]
    assert kept(sat(temperature=0.5, top_p=0.5), 0.45, 0.30, 0.25) == [0]


def test_sat_top_p_keeps_the_first_token_past_it_and_0_keeps_all() -> None:
    assert kept(sat(top_p=0.6), 0.2, 0.5, 0.3) == [1, 2]
    assert kept(sat(top_p=0.01), 0.2, 0.5, 0.3) == [1]
    assert kept(sat(), 0.2, 0.5, 0.3) == [0, 1, 2]


def test_sat_filtered_scores_are_minus_65504() -> None:
    scores = sat(top_k=1)(torch.tensor([[1.0, 3.0, 2.0]]))
    assert scores.tolist() == [[-65504.0, 3.0, -65504.0]]
