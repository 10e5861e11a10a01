"""Generation: what counts as length, when it stops, what a stream leaves out, and what guards broken scores."""

import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from glm_model import GLMError, SamplingOptions, stream_text
from tests.rules import tiny
from tests.rules.spelling import NumberTokenizer
from tests.rules.tiny import EOP, GMASK, PAD, SOP, ids, scripted

TOKENIZER = NumberTokenizer()
PROMPT = [7, 8, GMASK, SOP]
GREEDY: dict[str, Any] = {"do_sample": False}


def saying(*passes: Tensor | int) -> Any:
    """ChatGLM-6B whose passes choose these tokens."""
    model = tiny.chatglm()
    scripted(model, passes)
    return model


def answer(model: Any, **settings: Any) -> list[int]:
    output: list[int] = model.generate(ids(PROMPT), **{**GREEDY, **settings})[0, len(PROMPT) :].tolist()
    return output


def streamed(model: Any, **settings: Any) -> list[list[int]]:
    steps = model.stream_generate(ids(PROMPT), **{**GREEDY, **settings})
    return [step[0, len(PROMPT) :].tolist() for step in steps]


# ---- length


def test_max_length_counts_prompt_and_answer() -> None:
    assert answer(saying(9, 10, 11, 12), max_length=len(PROMPT) + 2) == [9, 10]
    assert streamed(saying(9, 10, 11, 12), max_length=len(PROMPT) + 2) == [[9]]
    chunks = [*stream_text(saying(9, 10, 11), TOKENIZER, PROMPT, SamplingOptions(max_length=len(PROMPT) + 2))]
    assert chunks[-1].token_count == 2


def test_max_length_no_longer_than_the_prompt_gives_one_token() -> None:
    assert answer(saying(9, 10), max_length=len(PROMPT)) == [9]
    assert answer(saying(9, 10), max_length=1) == [9]


def test_max_length_no_longer_than_the_prompt_streams_nothing() -> None:
    assert streamed(saying(9, 10), max_length=len(PROMPT)) == []


def test_generation_stops_at_eop_which_is_part_of_the_output() -> None:
    assert answer(saying(9, EOP, 10), max_length=20) == [9, EOP]


def test_generation_fills_finished_rows_of_a_batch_with_pad() -> None:
    model = tiny.chatglm()
    one_ends = torch.full((2, 1, tiny.VOCABULARY), -50.0)
    one_ends[0, :, EOP] = one_ends[1, :, 9] = 50.0
    scripted(model, [one_ends, 10, EOP])
    output = model.generate(ids(PROMPT, [8, 7, GMASK, SOP]), max_length=20, **GREEDY)
    assert output[:, len(PROMPT) :].tolist() == [[EOP, PAD, PAD], [9, 10, EOP]]


# ---- streams


def test_published_stream_never_yields_the_last_token() -> None:
    assert streamed(saying(9, 10, EOP), max_length=20) == [[9], [9, 10]]
    assert streamed(saying(9, 10, 11), max_length=len(PROMPT) + 3) == [[9], [9, 10]]


def test_published_stream_of_an_immediate_eop_yields_nothing() -> None:
    assert streamed(saying(EOP), max_length=20) == []


def test_published_chat_stream_is_one_token_shorter_than_chat_where_the_length_cuts() -> None:
    settings = {"max_length": len(PROMPT) + 3, "do_sample": False}
    text, _ = saying(9, 10, 11).chat(TOKENIZER, "7 8", **settings)
    *_, (last, _) = saying(9, 10, 11).stream_chat(TOKENIZER, "7 8", **settings)
    assert (text, last) == ("9 10 11", "9 10")


def test_front_end_stream_loses_no_token() -> None:
    options = SamplingOptions(max_length=len(PROMPT) + 3, temperature=0)
    cut = [*stream_text(saying(9, 10, 11), TOKENIZER, PROMPT, options)]
    assert ("".join(chunk.text for chunk in cut), cut[-1].token_count, cut[-1].finish_reason) == (
        "9 10 11",
        3,
        "length",
    )
    ended = [*stream_text(saying(9, EOP), TOKENIZER, PROMPT, options)]
    assert ("".join(chunk.text for chunk in ended), ended[-1].token_count, ended[-1].finish_reason) == ("9", 1, "stop")


def test_max_length_without_room_is_refused_by_the_front_end_stream() -> None:
    with pytest.raises(ValueError, match="the prompt has 4 tokens and max_length is 4"):
        next(iter(stream_text(saying(9), TOKENIZER, PROMPT, SamplingOptions(max_length=4))))


def test_history_of_a_chat_keeps_the_processed_answer() -> None:
    _, history = saying(9, EOP).chat(TOKENIZER, "7 8", [("a", "b")], max_length=20, do_sample=False)
    assert [tuple(round_) for round_ in history] == [("a", "b"), ("7 8", "9")]


# ---- broken scores


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_invalid_scores_choose_token_5(broken: float) -> None:
    scores = torch.zeros(tiny.VOCABULARY)
    scores[11] = broken
    text, _ = saying(scores, EOP).chat(TOKENIZER, "7 8", max_length=20)
    assert text == "5"
    *_, (streamed_text, _) = saying(scores, 9, EOP).stream_chat(TOKENIZER, "7 8", max_length=20, top_k=1)
    assert streamed_text == "5 9"
    with pytest.raises(GLMError, match="NaN or infinite"):  # the front-ends' stream says so instead
        list(stream_text(saying(scores, EOP), TOKENIZER, PROMPT, SamplingOptions()))


def test_invalid_scores_are_those_that_are_not_finite_not_those_whose_sum_is_not() -> None:
    scores = torch.full((tiny.VOCABULARY,), 3e38)
    scores[9] = 3.1e38
    text, _ = saying(scores, EOP).chat(TOKENIZER, "7 8", max_length=20, do_sample=False)
    assert text == "9"


# ---- the published settings


def test_published_chat_defaults() -> None:
    model = tiny.chatglm()
    for method in (model.chat, model.stream_chat):
        defaults = {name: value.default for name, value in inspect.signature(method).parameters.items()}
        wanted = {"max_length": 2048, "do_sample": True, "top_p": 0.7, "temperature": 0.95}
        assert {name: defaults[name] for name in wanted} == wanted
    assert inspect.signature(model.chat).parameters["num_beams"].default == 1


def test_published_top_k_is_50() -> None:
    """transformers 4.27 added it silently, to the published chat too."""
    assert (SamplingOptions().top_k, SamplingOptions().top_p, SamplingOptions().temperature) == (50, 0.7, 0.95)
    model = tiny.chatglm(vocab_size=80)
    scripted(model, [-torch.arange(80.0) * 1e-3])
    settings = SamplingOptions(top_p=1.0, max_length=len(PROMPT) + 1).generation_kwargs()
    processed = model.generate(ids(PROMPT), **settings, output_scores=True, return_dict_in_generate=True).scores
    assert processed[0].isfinite().nonzero()[:, 1].tolist() == [*range(50)]
