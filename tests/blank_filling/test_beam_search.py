"""The search on made-up languages, against the rules spelled out; the golden beams are in test_golden.py."""

import math
import random
import zlib
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from glm_model.blank_filling.beam_search import Beam, BeamSearch
from tests.blank_filling import slow
from tests.blank_filling.slow import Ids, NextScores

WORDS = 40
ENDS = [38, 39]
PROMPT = [7, 3, 7]


def language(seed: int, words: int = WORDS, ends: float = 1.5) -> NextScores:
    """Scores that look random and follow from the ids alone; `ends` favours the end tokens."""

    def next_scores(ids: Ids) -> Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(repr((seed, ids)).encode()))
        scores = torch.randn(words, generator=generator) * 2
        scores[-2:] += ends
        return scores

    return next_scores


def run(search: BeamSearch, next_scores: NextScores, limit: int, prompt: Ids = PROMPT) -> list[Beam]:
    """What the model's caller does: score what the search says it goes on with."""
    running = [prompt]
    while search.length < limit and not search.is_done:
        parents, tokens = search.advance(torch.stack([next_scores(ids) for ids in running]))
        running = [[*running[parent], token] for parent, token in zip(parents, tokens, strict=True)]
        assert running == [beam.token_ids for beam in search.beams(consider_end=False)]
    return search.beams()


@pytest.mark.parametrize("seed", range(40))
def test_beams_are_those_of_the_rules(seed: int) -> None:
    chance = random.Random(seed)
    next_scores = language(seed, ends=chance.choice([-1.0, 1.5, 3.0]))
    beams, ends, limit = chance.randint(1, 5), chance.choice([ENDS, ENDS[:1], []]), chance.randint(4, 12)
    penalty, ngram, least = (
        chance.choice([-1.0, 0.0, 0.6, 1.0, 2.0]),
        chance.choice([0, 1, 2, 3]),
        chance.choice([0, 4]),
    )
    search = BeamSearch(PROMPT, beams, ends, length_penalty=penalty, no_repeat_ngram_size=ngram, min_gen_length=least)
    found = run(search, next_scores, limit)
    wanted = slow.beam_search(next_scores, PROMPT, beams, ends, limit, penalty, ngram, least)
    assert [beam.token_ids for beam in found] == [PROMPT + answer for _, answer in wanted]
    assert [beam.score for beam in found] == pytest.approx([score for score, _ in wanted], rel=1e-5)
    assert [beam.ended for beam in found] == [answer[-1] in ends for _, answer in wanted]


@pytest.mark.parametrize("seed", range(8))
def test_a_score_is_the_probability_of_the_answer_under_the_penalty(seed: int) -> None:
    next_scores = language(seed)
    for beam in run(BeamSearch(PROMPT, 4, ENDS, length_penalty=0.8), next_scores, 10):
        total = slow.score(next_scores, PROMPT, beam.token_ids[len(PROMPT) :])
        assert beam.score == pytest.approx(total / ((5 + len(beam.token_ids)) / 6) ** 0.8, rel=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_one_beam_without_ends_is_greedy(seed: int) -> None:
    next_scores = language(seed)
    (beam,) = run(BeamSearch(PROMPT, 1, []), next_scores, 12)
    assert beam.token_ids == PROMPT + slow.greedy(next_scores, PROMPT, [], 12)


@pytest.mark.parametrize("seed", range(8))
def test_the_best_beams_come_first_and_differ(seed: int) -> None:
    found = run(BeamSearch(PROMPT, 5, ENDS), language(seed), 12)
    assert [beam.score for beam in found] == sorted((beam.score for beam in found), reverse=True)
    assert len({tuple(beam.token_ids) for beam in found}) == 5


@pytest.mark.parametrize("deterministic", [True, False])
def test_no_ngram_of_the_answer_comes_twice(deterministic: bool) -> None:
    """The language would repeat itself; what stands in the prompt may come once more."""
    prompt, words = [1, 2, 1, 2], 12

    def next_scores(ids: Ids) -> Tensor:
        return torch.randn(words, generator=torch.Generator().manual_seed(ids[-1])) * 4

    generator = torch.Generator().manual_seed(0)
    search = BeamSearch(prompt, 3, [], no_repeat_ngram_size=2, deterministic=deterministic, generator=generator)
    for beam in run(search, next_scores, 20, prompt):
        pairs = list(pairwise(beam.token_ids[3:]))
        assert len(set(pairs)) == len(pairs)
    plain = list(pairwise(run(BeamSearch(prompt, 3, []), next_scores, 20, prompt)[0].token_ids[3:]))
    assert len(set(plain)) < len(plain)


def test_an_ngram_of_the_prompt_may_come_again() -> None:
    """3 always follows 2, as in the prompt: the answer brings `2 3` itself before it is banned."""
    scores = torch.full((6, 6), -9.0)
    for token, follower in ((2, 3), (3, 1), (1, 2)):
        scores[token, follower] = 9.0
    search = BeamSearch([1, 2, 3, 1], 1, [], no_repeat_ngram_size=2)
    (beam,) = run(search, lambda ids: scores[ids[-1]], 8, [1, 2, 3, 1])
    assert beam.token_ids[:7] == [1, 2, 3, 1, 2, 3, 1]
    assert beam.token_ids[7] != 2


@pytest.mark.parametrize("least", [1, 5])
def test_no_beam_ends_too_early(least: int) -> None:
    found = run(BeamSearch(PROMPT, 4, ENDS, min_gen_length=least), language(3, ends=9.0), 14)
    assert all(beam.ended for beam in found)
    assert min(len(beam.token_ids) - len(PROMPT) - 1 for beam in found) == least


def test_as_many_beams_run_on_whatever_ends() -> None:
    """Even where each beam's best candidates are all end tokens."""
    search = BeamSearch(PROMPT, 4, ENDS)
    next_scores = language(0, ends=30.0)
    running = [PROMPT]
    for _ in range(3):
        parents, tokens = search.advance(torch.stack([next_scores(ids) for ids in running]))
        assert len(tokens) == 4
        running = [[*running[parent], token] for parent, token in zip(parents, tokens, strict=True)]


def test_a_longer_answer_wins_with_a_higher_penalty() -> None:
    lengths = [
        len(run(BeamSearch(PROMPT, 3, ENDS, length_penalty=p), language(1), 16)[0].token_ids) for p in (-2, 0, 6)
    ]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


@pytest.mark.parametrize("penalty", [-100.0, 100.0])
def test_scores_of_the_greatest_penalties_are_numbers(penalty: float) -> None:
    beams = run(BeamSearch(PROMPT, 3, [], length_penalty=penalty), language(1), 60)
    assert all(math.isfinite(beam.score) and beam.score < 0 for beam in beams)


def test_drawn_candidates_differ_by_seed_and_repeat_with_it() -> None:
    def drawn(seed: int) -> list[Ids]:
        search = BeamSearch(PROMPT, 3, ENDS, deterministic=False, generator=torch.Generator().manual_seed(seed))
        return [beam.token_ids for beam in run(search, language(5), 12)]

    assert drawn(1) == drawn(1)
    assert len({repr(drawn(seed)) for seed in range(5)}) > 1


def test_drawn_candidates_follow_their_probability() -> None:
    """One beam, one step: the candidate that runs on is drawn, the most probable one most often."""
    scores = torch.tensor([2.0, 1.0, 0.0, -20.0])
    generator = torch.Generator().manual_seed(0)
    kept = [
        BeamSearch([0], 1, [], deterministic=False, generator=generator).advance(scores[None])[1][0] for _ in range(300)
    ]
    assert set(kept) <= {0, 1, 2}
    assert kept.count(0) > kept.count(1) > 0


def test_more_beams_than_the_vocabulary_allows() -> None:
    with pytest.raises(ValueError, match=r"num_beams=14 needs 42 candidates .* 40 tokens: use at most 13 beams"):
        BeamSearch(PROMPT, 14, ENDS).advance(torch.zeros(1, WORDS))
    assert len(BeamSearch(PROMPT, 13, ENDS).advance(language(0)(PROMPT)[None])[1]) == 13


def test_reading_the_beams_changes_nothing() -> None:
    search = BeamSearch(PROMPT, 3, ENDS)
    search.advance(language(0)(PROMPT)[None])
    assert search.beams() == search.beams()
