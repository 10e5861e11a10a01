"""Filling token by token: the steps that a front-end shows, and the result at their end."""

import random

import pytest
import torch

from glm_model.blank_filling import (
    MAX_BLANKS,
    FillError,
    FillOptions,
    FillResult,
    FillStep,
    fill_blanks,
    stream_blanks,
)
from tests.blank_filling.toy import LIMIT, IntegerTokenizer, drawn_model

TOKENIZER = IntegerTokenizer()
GREEDY = FillOptions(temperature=0, max_length=LIMIT)
BEAMS = FillOptions(strategy="beam_search", num_beams=3, max_length=LIMIT)
TEXT = "10 20 [MASK] 30 [MASK] 40 50"


def steps_of(text: str, options: FillOptions, seed: int = 1) -> list[FillStep]:
    return list(stream_blanks(drawn_model(seed), TOKENIZER, text, options))


def result_of(steps: list[FillStep]) -> FillResult:
    assert all(step.result is None for step in steps[:-1])
    result = steps[-1].result
    assert result is not None
    return result


@pytest.mark.parametrize("options", [GREEDY, BEAMS], ids=["greedy", "beams"])
@pytest.mark.parametrize("seed", range(3))
def test_the_last_step_has_what_fill_blanks_gives(seed: int, options: FillOptions) -> None:
    result = result_of(steps_of(TEXT, options, seed))
    assert result == fill_blanks(drawn_model(seed), TOKENIZER, TEXT, options)


def test_a_greedy_answer_grows_by_a_token_a_step() -> None:
    steps = steps_of(TEXT, GREEDY)
    result = result_of(steps)
    for blank, answered in enumerate(result.blanks):
        answer = answered.answers[0].token_ids
        seen = [step.show().decoded for step in steps[:-1] if step.blank == blank]
        # The last token of an answer that the length cut comes with the next step.
        ended = answered.answers[0].finish_reason == "stop"
        assert len(seen) == len(answer) - (not ended)
        known = TOKENIZER.decode_exact(answered.prompt_ids).split()
        place = known.index("500")
        for count, text in enumerate(seen, start=1):
            assert text.split()[place : place + count] == [str(token) for token in answer[:count]]


def test_a_step_shows_the_same_later() -> None:
    steps = steps_of(TEXT, BEAMS)
    at_once = [step.show() for step in stream_blanks(drawn_model(1), TOKENIZER, TEXT, BEAMS)]
    assert [step.show() for step in steps] == at_once


def test_steps_count_the_blanks() -> None:
    steps = steps_of("10 [MASK] 20 [MASK] [MASK] 30", GREEDY)
    assert steps[0].count >= 3
    assert [step.blank for step in steps] == sorted(step.blank for step in steps)
    assert steps[-1].count == len(result_of(steps).blanks)


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_stop_ends_with_what_there_is(after: int) -> None:
    asked = iter(range(1000))
    steps = list(stream_blanks(drawn_model(1), TOKENIZER, TEXT, GREEDY, should_stop=lambda: next(asked) >= after))
    assert result_of(steps).blanks[-1].answers[0].finish_reason == "cancelled"
    assert len(steps) <= after + 2


def test_no_gradient_is_kept_and_the_consumer_keeps_its_own_mode() -> None:
    for _ in stream_blanks(drawn_model(1), TOKENIZER, TEXT, GREEDY):
        assert torch.is_grad_enabled()


@pytest.mark.parametrize("every_kind", [False, True])
def test_fillings_say_which_blank_they_fill(every_kind: bool) -> None:
    options = FillOptions(temperature=0, max_length=90, every_kind=every_kind)
    text = "10 [sMASK] 20 [MASK] 30 [sMASK] 40 [MASK]"
    filled = fill_blanks(drawn_model(2), TOKENIZER, text, options)
    best = filled.texts[0]
    fillings = [segment.text.split() for segment in best.segments if segment.is_filling]
    assert len(fillings) == len(best.filled_by)
    for filling, blank in zip(fillings, best.filled_by, strict=True):
        assert filling == filled.blanks[blank].answers[0].text.split()
    assert best.filled_by == ((2, 0, 3, 1) if every_kind else (0, 1))


def test_refusals_tell_a_program_what_is_wrong() -> None:
    blanks = " ".join(["[MASK]"] * (MAX_BLANKS + 1))
    for text, options, expected in (
        ("", GREEDY, ("no_text", 0, 0)),
        (" ".join(["1"] * 200), GREEDY, ("too_long", 201, 128)),
        (" ".join(["1"] * 60), GREEDY, ("too_long", 61, LIMIT - 2)),
        (blanks, FillOptions(max_length=120), ("too_many_blanks", MAX_BLANKS + 1, MAX_BLANKS)),
    ):
        with pytest.raises(FillError) as refused:
            steps_of(text, options)
        told = refused.value
        assert (told.kind, told.count, told.limit) == expected


def test_a_text_may_have_as_many_tokens_as_the_limit_says() -> None:
    draw = random.Random(0)
    for length in (LIMIT - 3, LIMIT - 2, LIMIT - 1):
        text = " ".join(str(draw.randrange(10, 400)) for _ in range(length - 1)) + " [MASK]"
        if length <= LIMIT - 2:
            assert result_of(steps_of(text, GREEDY)).blanks
        else:
            with pytest.raises(FillError, match="no room"):
                steps_of(text, GREEDY)
