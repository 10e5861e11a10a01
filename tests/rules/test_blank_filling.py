"""Filling blanks as GLM-130B's generate.py does: what is appended, which mask is filled, where the answer goes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from glm_model import FillOptions, FillResult, UnsupportedError, fill_blanks
from glm_model.blank_filling.answers import blank_position_ids
from tests.rules import tiny
from tests.rules.spelling import NumberTokenizer
from tests.rules.tiny import END, EOP, GMASK, MASK, SMASK, SOP, scripted


def filled(model: Any, text: str, *answers: int, **options: Any) -> FillResult:
    """A text filled with the tokens that the model's passes choose."""
    scripted(model, answers)
    return fill_blanks(model, NumberTokenizer(), text, FillOptions(temperature=0, max_length=40, **options))


def prompts(result: FillResult) -> list[tuple[int, ...]]:
    return [blank.prompt_ids for blank in result.blanks]


def test_end_of_text_is_appended_for_glm130b_where_no_mask_ends_the_text() -> None:
    assert prompts(filled(tiny.glm130b(), "7 [MASK] 8", 9, EOP)) == [(7, MASK, 8, END, SOP)]
    assert prompts(filled(tiny.glm130b(), "7 8 [MASK]", 9, EOP)) == [(7, 8, MASK, SOP)]


def test_end_of_text_is_not_appended_for_chatglm() -> None:
    assert prompts(filled(tiny.chatglm(), "7 [MASK] 8", 9, EOP)) == [(7, MASK, 8, SOP)]


def test_gmask_is_appended_to_a_text_without_a_mask() -> None:
    for model in (tiny.glm130b(), tiny.chatglm()):
        assert prompts(filled(model, "7 8", 9, EOP)) == [(7, 8, GMASK, SOP)]


def test_kind_of_mask_that_is_filled_is_mask_before_smask_before_gmask() -> None:
    assert prompts(filled(tiny.glm130b(), "[gMASK] 7 [sMASK] 8 [MASK]", 9, EOP)) == [(GMASK, 7, SMASK, 8, MASK, SOP)]
    every = filled(tiny.glm130b(), "[gMASK] 7 [sMASK] 8 [MASK]", 9, EOP, 10, EOP, 11, EOP, every_kind=True)
    assert every.texts[0].text.split() == ["11", "7", "10", "8", "9"]


def test_blanks_are_filled_from_left_to_right_each_answer_in_its_place() -> None:
    result = filled(tiny.chatglm(), "7 [MASK] 8 [MASK]", 9, 10, EOP, 11, EOP)
    assert prompts(result) == [(7, MASK, 8, MASK, SOP), (7, 9, 10, 8, MASK, SOP)]
    assert result.texts[0].text.split() == ["7", "9", "10", "8", "11"]


@pytest.mark.parametrize("end", [EOP, END])
def test_end_tokens_of_glm130b_are_eop_and_end_of_text(end: int) -> None:
    answer = filled(tiny.glm130b(), "7 [MASK]", 9, end, 10).blanks[0].answers[0]
    assert (answer.token_ids, answer.finish_reason) == ((9,), "stop")


def test_end_token_of_chatglm_is_eop_alone() -> None:
    answer = filled(tiny.chatglm(), "7 [MASK]", 9, END, EOP).blanks[0].answers[0]
    assert answer.token_ids == (9, END)


def test_max_length_of_a_filled_text_counts_text_sop_and_answer() -> None:
    scripted(model := tiny.chatglm(), [9, 10, 11, 12])
    result = fill_blanks(model, NumberTokenizer(), "7 8 [MASK]", FillOptions(temperature=0, max_length=6))
    answer = result.blanks[0].answers[0]
    assert (answer.token_ids, answer.finish_reason) == ((9, 10), "length")


def test_kind_of_mask_unknown_to_chatglm_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"this model knows no \[sMASK\]"):
        filled(tiny.chatglm(), "7 [sMASK]", 9)


def test_positions_while_a_blank_is_filled_are_those_of_its_mask() -> None:
    """A pass for each token: [MASK] at index 1 holds the answer there, [gMASK] lets it count on."""
    for model, text, wanted in (
        (tiny.glm130b(), "7 [MASK] 8", [[0, 1, 2, 3, 1], [1], [1]]),
        (tiny.glm130b(), "7 8 [gMASK]", [[0, 1, 2, 3], [4], [5]]),
    ):
        seen = positions_of(model)
        filled(model, text, 9, 10, EOP)
        assert seen == wanted
    model = tiny.chatglm()
    seen = positions_of(model)
    filled(model, "7 [MASK] 8", 9, 10, EOP)
    assert seen == [[[0, 1, 2, 1], [0, 0, 0, 1]], [[1], [2]], [[1], [3]]]


@pytest.mark.parametrize("make", [tiny.chatglm, tiny.glm130b])
def test_context_does_not_see_sop_while_a_blank_is_filled(make: Any) -> None:
    """Its scores are those of one pass over the same ids with the mask that the rule says."""
    model = make(num_layers=2)
    seen: list[Tensor] = []
    model.lm_head.register_forward_hook(lambda _module, _inputs, logits: seen.append(logits[0, -1]))
    result = filled(model, "7 [MASK] 8", 9, EOP)
    (prompt,) = prompts(result)
    context, blank = len(prompt) - 1, prompt.index(MASK)
    for passed, given in enumerate([prompt, (*prompt, 9)]):
        masked = torch.ones(len(given), len(given), dtype=torch.bool).triu(1)
        masked[:, :context] = False
        positions = blank_position_ids(model.config, len(prompt), blank, MASK, len(given))
        output = make(num_layers=2)(tiny.ids(given), attention_mask=masked[None, None], position_ids=positions)
        whole = output.logits[0, -1]
        torch.testing.assert_close(seen[passed], whole, atol=1e-4, rtol=1e-4)


def positions_of(model: Any) -> list[Any]:
    """A list that gets the positions of each pass."""
    seen: list[Any] = []
    model.model.rotary_emb.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0][0].tolist()))
    return seen
