"""Which tokens a task becomes."""

import itertools
from typing import Any

import pytest

from glm_model import ChatGLMConfig, GLMError, UnsupportedError
from glm_model.evaluation import EvaluationOptions, TaskEncoder
from tests.blank_filling.toy import GMASK, MASK, SMASK, SOP, IntegerTokenizer, golden_model

CONFIG = golden_model().config
CHAT_CONFIG = ChatGLMConfig(mask_token_id=MASK, gmask_token_id=GMASK, bos_token_id=SOP, max_sequence_length=32)


def encoder(config: Any = CONFIG, **options: Any) -> TaskEncoder:
    return TaskEncoder(config, IntegerTokenizer(), EvaluationOptions(**options))


@pytest.mark.parametrize(
    ("config", "options", "context", "ids"),
    [
        # A mask at the end where there is none: [MASK] for GLM-130B's options, [gMASK] for ChatGLM.
        (CONFIG, {}, "10 11", (10, 11, MASK, SOP, 20)),
        (CHAT_CONFIG, {}, "10 11", (10, 11, GMASK, SOP, 20)),
        (CONFIG, {"mask": "gMASK"}, "10 11", (10, 11, GMASK, SOP, 20)),
        (CONFIG, {"mask": "sMASK"}, "10 11", (10, 11, SMASK, SOP, 20)),
        (CONFIG, {}, "", (MASK, SOP, 20)),
        # A text with a mask is filled there, whatever the option says.
        (CONFIG, {"mask": "gMASK"}, "10 [MASK] 11", (10, MASK, 11, SOP, 20)),
        (CHAT_CONFIG, {}, "10 [MASK] 11", (10, MASK, 11, SOP, 20)),
        (CONFIG, {}, "10 [sMASK]", (10, SMASK, SOP, 20)),
        (CONFIG, {"unidirectional": True}, "10 11 ", (GMASK, SOP, 10, 11, 20)),
    ],
)
def test_a_target_in_its_context(config: Any, options: Any, context: str, ids: tuple[int, ...]) -> None:
    made = encoder(config, **options).option(context, "20 21")
    assert made.input_ids == ids
    assert made.target_ids == (20, 21)
    assert made.dropped == 0


@pytest.mark.parametrize(
    ("options", "context", "ids"),
    [
        ({}, "10 11", (10, 11, GMASK, SOP)),
        ({"mask": "MASK"}, "10 11", (10, 11, MASK, SOP)),
        ({}, "10 [MASK] 11", (10, MASK, 11, SOP)),
        ({"unidirectional": True}, "10 11", (GMASK, SOP, 10, 11)),
    ],
)
def test_a_prompt_to_continue(options: Any, context: str, ids: tuple[int, ...]) -> None:
    assert encoder(**options).prompt(context, new_tokens=5).input_ids == ids


def test_masks_in_ordinary_text(demo: tuple[Any, Any]) -> None:
    model, tokenizer = demo
    text = "Fill in: the sky is [MASK]."
    ordinary = TaskEncoder(model.config, tokenizer, EvaluationOptions(blanks=False)).prompt(text, 1).input_ids
    assert ordinary == (*tokenizer.encode_text(text), model.config.gmask_token_id, model.config.bos_token_id)
    blank = TaskEncoder(model.config, tokenizer).prompt(text, 1).input_ids
    assert blank.count(model.config.mask_token_id) == 1
    assert model.config.gmask_token_id not in blank


def test_a_mask_that_the_model_does_not_know_is_text(demo: tuple[Any, Any]) -> None:
    model, tokenizer = demo
    made = TaskEncoder(model.config, tokenizer).prompt("Fill [sMASK].", 1).input_ids
    assert made[:-2] == tuple(tokenizer.encode_text("Fill [sMASK]."))


def test_a_causal_text_is_encoded_as_one(demo: tuple[Any, Any]) -> None:
    """Apart, the second half of a Chinese word would get the space that starts a text."""
    model, tokenizer = demo
    causal = TaskEncoder(model.config, tokenizer, EvaluationOptions(unidirectional=True)).option("中国的首", "都是北京")
    whole = tokenizer.encode_text("中国的首都是北京")
    assert [*causal.input_ids[2:], causal.target_ids[-1]] == whole
    apart = TaskEncoder(model.config, tokenizer).option("中国的首", "都是北京")
    assert list(apart.target_ids) == tokenizer.encode_text("都是北京")


# ---- no room


def words(*ids: int) -> str:
    return " ".join(map(str, ids))


@pytest.mark.parametrize(
    ("options", "context", "ids", "dropped"),
    [
        ({}, words(*range(10, 16)), (10, 11, 12, 13, 14, 15, MASK, SOP, 30), 0),
        ({}, words(*range(10, 17)), (11, 12, 13, 14, 15, 16, MASK, SOP, 30), 1),
        ({}, f"{words(*range(10, 14))} [MASK] {words(*range(20, 24))}", (12, 13, MASK, 20, 21, 22, 23, SOP, 30), 2),
        # The blank itself is never lost: what stands behind it gives way, too.
        ({}, f"10 [MASK] {words(*range(20, 29))}", (MASK, 20, 21, 22, 23, 24, 25, SOP, 30), 4),
        ({"unidirectional": True}, words(*range(10, 17)), (GMASK, SOP, 11, 12, 13, 14, 15, 16, 30), 1),
    ],
)
def test_too_long_a_context_loses_its_beginning(options: Any, context: str, ids: tuple[int, ...], dropped: int) -> None:
    made = encoder(max_length=9, **options).option(context, " 30 31")
    assert (made.input_ids, made.dropped) == (ids, dropped)


def test_a_prompt_leaves_room_for_its_answer() -> None:
    made = encoder(max_length=9).prompt(words(*range(10, 20)), new_tokens=4)
    assert (made.input_ids, made.dropped) == ((17, 18, 19, GMASK, SOP), 7)


def test_what_cannot_be_encoded_is_refused() -> None:
    with pytest.raises(GLMError, match="no tokens"):
        encoder().option("10", "")
    with pytest.raises(GLMError, match="10 tokens"):
        encoder(max_length=9).option("10", words(*range(10)))
    with pytest.raises(GLMError, match="max_gen_toks"):
        encoder(max_length=9).prompt("10", new_tokens=7)
    with pytest.raises(GLMError, match=r"cannot fill the \[MASK\]"):
        encoder(unidirectional=True).option("10 [MASK]", "11")


@pytest.mark.parametrize(
    "options",
    [
        {"mask": "MASKED"},
        {"mask": "MASK", "unidirectional": True},
        {"max_length": 2},
        {"rolling_stride": 0},
        {"max_length": CONFIG.max_sequence_length + 1},
    ],
)
def test_options_out_of_range(options: Any) -> None:
    with pytest.raises(ValueError, match=next(reversed(options))):
        encoder(**options)


def test_a_mask_that_only_glm130b_knows() -> None:
    with pytest.raises(UnsupportedError, match="MASK, gMASK"):
        encoder(CHAT_CONFIG, mask="sMASK")


# ---- windows of a whole text


def test_windows_as_in_the_original() -> None:
    """Seven tokens in windows of six (five of text) that move on by two."""
    made = encoder(max_length=6, rolling_stride=2).windows(words(*range(10, 18)))
    assert [(window.input_ids, window.target_ids) for window in made] == [
        ((GMASK, SOP, 10, 11, 12, 13), (10, 11, 12, 13, 14)),
        ((12, 13, 14, GMASK, SOP, 15), (15, 16)),
        ((14, 15, 16, GMASK, SOP), (17,)),
    ]


def test_windows_that_are_causal() -> None:
    made = encoder(max_length=6, rolling_stride=2, unidirectional=True).windows(words(*range(10, 18)))
    assert made[1].input_ids == (GMASK, SOP, 12, 13, 14, 15)
    assert made[1].target_ids == (15, 16)


@pytest.mark.parametrize(("length", "stride"), list(itertools.product([0, 1, 5, 6, 23], [1, 4, 100])))
def test_windows_score_each_token_once(length: int, stride: int) -> None:
    ids = list(range(10, 10 + length))
    made = encoder(max_length=6, rolling_stride=stride).windows(words(*ids))
    assert [token for window in made for token in window.target_ids] == ids
    assert all(len(window.input_ids) <= 6 for window in made)
