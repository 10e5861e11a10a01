"""Beam search: by which length a beam's score is divided, in transformers 4.27's way and in SwissArmyTransformer's."""

import math

import pytest
import torch
from torch import Tensor

from glm_model.blank_filling.beam_search import BeamSearch
from tests.rules import tiny
from tests.rules.tiny import EOP, GMASK, SOP, ids, scripted

PROMPT = [7, 8, GMASK, SOP]


def scores_of(**probabilities: float) -> Tensor:
    """Scores [vocabulary] in which tokens `t9=...` have these probabilities and all others next to none."""
    scores = torch.full((tiny.VOCABULARY,), -60.0)
    for name, probability in probabilities.items():
        scores[int(name[1:])] = math.log(probability)
    return scores


@pytest.mark.parametrize("penalty", [1.0, 2.0, 0.0])
def test_beam_score_is_divided_by_the_length_of_prompt_and_answer_without_its_end(penalty: float) -> None:
    """[eop] has the prompt's 4 tokens, [9, eop] has 5."""
    model = tiny.chatglm()
    scripted(model, [scores_of(t9=0.6, t25=0.4), *[scores_of(t9=0.1, t25=0.9)] * 8])
    output = model.generate(
        ids(PROMPT), do_sample=False, num_beams=2, num_return_sequences=2, max_length=12, length_penalty=penalty,
        output_scores=True, return_dict_in_generate=True,
    )  # fmt: skip
    short, long = math.log(0.4) / 4**penalty, math.log(0.6 * 0.9) / 5**penalty
    assert output.sequences_scores.tolist() == pytest.approx([long, short], rel=1e-4)
    assert output.sequences[:, len(PROMPT) :].tolist()[0][:2] == [9, EOP]
    assert output.sequences[1, len(PROMPT)] == EOP


def search(**settings: float) -> BeamSearch:
    return BeamSearch(PROMPT, 2, [EOP, tiny.END], **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("penalty", [1.0, 0.5, -1.0])
def test_sat_beam_score_is_divided_by_the_length_penalty_of_prompt_answer_and_end(penalty: float) -> None:
    beams = search(length_penalty=penalty)
    beams.advance(scores_of(t9=0.5, t10=0.3, t25=0.2)[None])
    best, second, _ = (math.log(probability) / ((5 + 5) / 6) ** penalty for probability in (0.5, 0.3, 0.2))
    running = beams.beams(consider_end=False)
    assert [beam.score for beam in running] == pytest.approx([best, second], rel=1e-5)
    assert [beam.token_ids for beam in running] == [[*PROMPT, 9], [*PROMPT, 10]]
    ended = [beam for beam in beams.beams() if beam.ended]
    assert not ended  # the worst of three, and two are wanted


def test_sat_beam_that_ends_is_kept_and_as_many_run_on() -> None:
    beams = search()
    parents, tokens = beams.advance(scores_of(t9=0.3, t10=0.2, t25=0.5)[None])
    assert (parents, tokens) == ([0, 0], [9, 10])
    assert [beam.token_ids for beam in beams.beams() if beam.ended] == [[*PROMPT, EOP]]
    assert not beams.is_done


def test_sat_beam_forbids_an_ngram_of_the_answer_but_not_of_the_prompt() -> None:
    beams = search(no_repeat_ngram_size=2)
    for token in (7, 8, 9, 7):  # 7 8 stands in the prompt already
        _, tokens = beams.advance(scores_of(**{f"t{token}": 0.9, "t11": 0.1})[None].expand(len(beams.beams()), -1))
        assert tokens[0] == token
    _, tokens = beams.advance(scores_of(t8=0.9, t12=0.1)[None].expand(2, -1))
    assert 8 not in tokens[:1]


def test_sat_beam_does_not_end_before_its_least_length() -> None:
    beams = search(min_gen_length=1)
    beams.advance(scores_of(t9=0.01, t10=0.01, t25=0.5, t20=0.48)[None])
    assert not any(beam.ended for beam in beams.beams())
    beams.advance(scores_of(t9=0.01, t10=0.01, t25=0.5, t20=0.48)[None].expand(2, -1))
    assert all(beam.ended for beam in beams.beams())
