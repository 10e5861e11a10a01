"""Texts with blanks on models of no data set: which blank is next, where answers go, and what is refused."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from glm_model import ChatGLMForCausalLM, GLM130BForCausalLM
from glm_model.blank_filling import MAX_BLANKS, FillOptions, FillResult, Segment, fill_blanks
from glm_model.errors import GLMError, UnsupportedError
from glm_model.text.tokenizer import ChatGLMTokenizer
from tests.blank_filling import slow
from tests.blank_filling.toy import ENDS, EOP, EOS, GMASK, MASK, SMASK, SOP, IntegerTokenizer, drawn_model
from tests.golden.data import CHAT, FP32, GOLDEN, TUNED
from tests.golden.models import load
from tests.reference import SpecialIds, chatglm_positions, glm130b_positions

TOKENIZER = IntegerTokenizer()
LIMIT = 24
IDS = {"[MASK]": MASK, "[gMASK]": GMASK, "[sMASK]": SMASK}
GREEDY = FillOptions(temperature=0, max_length=LIMIT)
BEAMS = FillOptions(strategy="beam_search", num_beams=3, max_length=LIMIT, no_repeat_ngram_size=2)


def filled(text: str, options: FillOptions = GREEDY, seed: int = 0, **more: Any) -> FillResult:
    return fill_blanks(drawn_model(seed), TOKENIZER, text, options, **more)


def drawn_text(chance: random.Random, kinds: Sequence[str]) -> str:
    """One to four words before, between and after masks of these kinds."""
    words = [
        " ".join(str(chance.randrange(6, 499)) for _ in range(chance.randint(1, 4))) for _ in range(len(kinds) + 1)
    ]
    text = words[0] + "".join(f" {kind} {after}" for kind, after in zip(kinds, words[1:], strict=True))
    return text.removesuffix(words[-1]).strip() if kinds and chance.random() < 0.5 else text


def ready_ids(text: str, chatglm: bool = False) -> list[int]:
    """The rules for the ends of a text; `text` is in integers and masks."""
    ids = [IDS[word] if word in IDS else int(word) for word in text.split()]
    if not set(ids) & set(IDS.values()):
        return [*ids, GMASK]
    return ids if chatglm or ids[-1] in IDS.values() else [*ids, EOS]


def slowly_filled(
    model: Any, ids: list[int], kind: int, options: FillOptions, positions_of: Callable[[list[int]], torch.Tensor]
) -> tuple[list[list[int]], list[list[int]]]:
    """The same on whole passes, without a cache."""
    ends = ENDS if isinstance(model, GLM130BForCausalLM) else [EOP]

    def answers(prompt: list[int], blank: int) -> list[list[int]]:
        # The rules take the blank's kind from the first mask; other kinds are words to them.
        lookalike = [token if place == blank or token not in IDS.values() else 6 for place, token in enumerate(prompt)]
        positions = positions_of([*lookalike, *[6] * (LIMIT - len(prompt))])
        next_scores = slow.scores_of_whole_passes(model, len(prompt), positions)
        if options.strategy == "sampling":
            return [slow.greedy(next_scores, prompt, ends, LIMIT)]
        found = slow.beam_search(
            next_scores,
            prompt,
            options.num_beams,
            ends,
            LIMIT,
            options.length_penalty,
            options.no_repeat_ngram_size,
            options.min_gen_length,
        )
        return [answer[:-1] if answer[-1] in ends else answer for _, answer in found]

    return slow.fill(answers, ids, kind, SOP, MAX_BLANKS)


def assert_filled(result: FillResult, wanted: tuple[list[list[int]], list[list[int]]]) -> None:
    texts, prompts = wanted
    assert [list(blank.prompt_ids) for blank in result.blanks] == prompts
    assert [text.decoded for text in result.texts] == [
        TOKENIZER.decode_exact(text[:-1] if text[-1] == EOS else text) for text in texts
    ]


KINDS: list[list[str]] = [
    [],
    ["[gMASK]"],
    ["[sMASK]", "[sMASK]"],
    ["[MASK]", "[MASK]", "[MASK]"],
    ["[sMASK]", "[MASK]"],
    ["[gMASK]", "[sMASK]", "[MASK]"],
]


@pytest.mark.parametrize("options", [GREEDY, BEAMS], ids=["greedy", "beams"])
@pytest.mark.parametrize("kinds", KINDS, ids=" ".join)
@pytest.mark.parametrize("seed", range(3))
def test_the_rules_on_drawn_models(seed: int, kinds: list[str], options: FillOptions) -> None:
    text = drawn_text(random.Random(f"{seed} {kinds}"), kinds)
    special = SpecialIds(mask=MASK, gmask=GMASK, smask=SMASK, sop=SOP)
    ids = ready_ids(text)
    kind = next(id_ for id_ in (MASK, SMASK, GMASK) if id_ in ids)
    wanted = slowly_filled(drawn_model(seed), ids, kind, options, lambda ids: glm130b_positions(ids, special))
    assert_filled(filled(text, options, seed), wanted)


@pytest.mark.parametrize("folder", [FP32, TUNED[0]])
@pytest.mark.parametrize("options", [GREEDY, BEAMS], ids=["greedy", "beams"])
@pytest.mark.parametrize("text", ["10 20 30", "10 20 [MASK] 30", "10 [MASK] 20 30 [MASK] 40", "10 [gMASK] 20"])
def test_chatglm(folder: str, options: FillOptions, text: str) -> None:
    """Two rows of positions, no </s>, one end token; a P-Tuning prefix in every pass."""
    model, special = load(folder), SpecialIds(mask=MASK, gmask=GMASK, sop=SOP)
    ids = ready_ids(text, chatglm=True)
    kind = MASK if MASK in ids else GMASK
    wanted = slowly_filled(model, ids, kind, options, lambda ids: chatglm_positions(ids, special))
    assert_filled(fill_blanks(model, TOKENIZER, text, options), wanted)


def test_one_blank_is_what_generate_answers() -> None:
    model = drawn_model(1)
    for text in ("10 20 30", "10 [MASK] 20", "[sMASK] 10 20"):
        (blank,) = filled(text, seed=1).blanks
        prompt = torch.tensor([blank.prompt_ids])
        generated = model.generate(prompt, max_length=LIMIT, do_sample=False)[0, prompt.shape[1] :].tolist()
        assert list(blank.answers[0].token_ids) == [token for token in generated if token not in ENDS]


# ---- which blank is next


def forced(monkeypatch: pytest.MonkeyPatch, answers: Sequence[list[int]]) -> None:
    """Every token comes from these answers, each ended by <eop>; the last one comes for ever."""
    tokens = [iter([*answer, EOP]) for answer in answers]

    def step(*args: Any, **kwargs: Any) -> torch.Tensor:
        scores = torch.zeros(1, 1, 512)
        token = next(tokens[0], None)
        while token is None:
            tokens.pop(0)
            if not tokens:
                tokens.append(iter([*answers[-1], EOP]))
            token = next(tokens[0], None)
        scores[0, 0, token] = 9.0
        return scores

    monkeypatch.setattr("glm_model.generation.passes.DecodingBatch._forward", step)


def test_other_kinds_stay_unless_every_kind_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "10 [gMASK] 11 [sMASK] 12 [MASK] 13"
    forced(monkeypatch, [[70]])
    (only,) = filled(text).texts
    assert only.text == "10 [gMASK] 11 [sMASK] 12 70 13"
    assert only.decoded == f"10 {GMASK} 11 {SMASK} 12 70 13"
    forced(monkeypatch, [[70], [80], [90]])
    everything = filled(text, replace(GREEDY, every_kind=True))
    assert everything.texts[0].text == "10 90 11 80 12 70 13"
    assert [list(blank.prompt_ids) for blank in everything.blanks] == [
        [10, GMASK, 11, SMASK, 12, MASK, 13, EOS, SOP],
        [10, GMASK, 11, SMASK, 12, 70, 13, EOS, SOP],
        [10, GMASK, 11, 80, 12, 70, 13, EOS, SOP],
    ]


def test_a_mask_token_in_an_answer_is_a_blank(monkeypatch: pytest.MonkeyPatch) -> None:
    forced(monkeypatch, [[70, MASK, 71], [80], [90]])
    result = filled("10 [MASK] 20 [MASK] 30")
    assert result.texts[0].decoded == "10 70 80 71 20 90 30"
    assert [segment.text.strip() for segment in result.texts[0].segments if segment.is_filling] == [
        "70",
        "80",
        "71",
        "90",
    ]
    assert [list(blank.prompt_ids) for blank in result.blanks][1:] == [
        [10, 70, MASK, 71, 20, MASK, 30, EOS, SOP],
        [10, 70, 80, 71, 20, MASK, 30, EOS, SOP],
    ]


def test_answers_that_bring_blanks_for_ever_end(monkeypatch: pytest.MonkeyPatch) -> None:
    forced(monkeypatch, [[MASK]])
    result = filled("10 [MASK] 20")
    assert len(result.blanks) == MAX_BLANKS
    assert result.texts[0].decoded == f"10 {MASK} 20"


def test_an_empty_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    forced(monkeypatch, [[]])
    result = filled("10 [MASK] 20")
    assert result.texts[0].decoded == "10 20"
    assert Segment("", True) in result.texts[0].segments
    assert result.blanks[0].answers[0].finish_reason == "stop"
    assert filled("[MASK]").texts[0].text == ""


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("10", [10, GMASK, SOP]),
        ("10 [gMASK]", [10, GMASK, SOP]),
        ("10 [gMASK] 11", [10, GMASK, 11, EOS, SOP]),
        ("[MASK] 10", [MASK, 10, EOS, SOP]),
        ("10[MASK]", [10, MASK, SOP]),
        ("10 [MASK] ", [10, MASK, EOS, SOP]),
        ("[sMASK]", [SMASK, SOP]),
        ("10 [gMASK] [sMASK]", [10, GMASK, SMASK, SOP]),
    ],
)
def test_the_end_of_the_text(text: str, prompt: list[int]) -> None:
    assert list(filled(text).blanks[0].prompt_ids) == prompt


# ---- sampling, beams, stopping


def test_a_seed_repeats_a_result() -> None:
    for options in (FillOptions(max_length=LIMIT, temperature=3.0), replace(BEAMS, deterministic=False)):
        texts = [filled("10 [MASK] 20 [MASK] 30", replace(options, seed=seed)).texts for seed in (1, 1, 2, 3, 4)]
        assert texts[0] == texts[1]
        assert len({text[0].decoded for text in texts}) > 1


@pytest.mark.parametrize("temperature", [1e-40, 9e-7])
def test_a_temperature_that_scores_cannot_be_divided_by_is_greedy(temperature: float) -> None:
    text = "10 [MASK] 20 [MASK] 30"
    found = filled(text, FillOptions(max_length=LIMIT, temperature=temperature))
    assert found.texts == filled(text, GREEDY).texts


def test_a_seed_leaves_the_sampling_of_others_alone() -> None:
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    filled("10 [MASK] 20", FillOptions(max_length=LIMIT, seed=1))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_beams_are_ranked_and_go_on_from_the_best() -> None:
    result = filled("10 [MASK] 20 [MASK] 30", BEAMS, seed=2)
    assert len(result.texts) == 3
    for blank in result.blanks:
        scores = [answer.score for answer in blank.answers if answer.score is not None]
        assert len(scores) == len(blank.answers)
        assert scores == sorted(scores, reverse=True)
    assert [text.score for text in result.texts] == [answer.score for answer in result.blanks[-1].answers]
    first = result.blanks[0].answers[0].token_ids
    assert all(text.decoded.startswith(TOKENIZER.decode_exact([10, *first, 20])) for text in result.texts)


@pytest.mark.parametrize("options", [GREEDY, BEAMS], ids=["greedy", "beams"])
def test_stopping_within_a_token(options: FillOptions) -> None:
    asked = []

    def stop_at_the_third() -> bool:
        asked.append(True)
        return len(asked) >= 3

    result = filled("10 [gMASK] 20 [gMASK] 30", options, should_stop=stop_at_the_third)
    (blank,) = result.blanks
    assert {answer.finish_reason for answer in blank.answers} <= {"cancelled", "stop"}
    assert max(len(answer.token_ids) for answer in blank.answers) == 3
    assert result.texts[0].text.endswith("20 [gMASK] 30")


def test_every_blank_gets_a_token_where_the_text_fits_at_all() -> None:
    text = " ".join(["10 [MASK]"] * 10)
    result = filled(text, FillOptions(temperature=0, max_length=len(ready_ids(text)) + 2))
    assert len(result.blanks) >= 10
    assert all(len(blank.prompt_ids) < len(ready_ids(text)) + 2 for blank in result.blanks)


# ---- what is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no tokens"),
        (" \n ", "no tokens"),
        ("1 " * 200, "200 tokens|201 tokens.*128.*shorten"),
        ("10 " * 22, "23 tokens and max_length is 24: no room"),
        ("[MASK] " * 100, "100 blanks, at most 64"),
    ],
)
def test_bad_texts(text: str, message: str) -> None:
    options = GREEDY if len(text) < 100 else replace(GREEDY, max_length=1000)
    with pytest.raises(GLMError, match=message):
        filled(text, options)


def test_the_longest_text_that_fits() -> None:
    result = filled("10 " * 21)
    assert len(result.blanks[0].answers[0].token_ids) == 1
    assert result.blanks[0].answers[0].finish_reason == "length"


def test_chatglm_knows_no_smask() -> None:
    with pytest.raises(UnsupportedError, match=r"knows no \[sMASK\]; use one of \[MASK\], \[gMASK\]"):
        fill_blanks(load(FP32), TOKENIZER, "10 [sMASK] 20", GREEDY)


def test_too_many_beams() -> None:
    with pytest.raises(ValueError, match="num_beams=400"):
        filled("10", replace(BEAMS, num_beams=400))


def test_scores_that_are_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = drawn_model(7)
    monkeypatch.setattr(model.lm_head, "weight", torch.nn.Parameter(torch.full_like(model.lm_head.weight, torch.nan)))
    with pytest.raises(GLMError, match="not finite in float32"):
        fill_blanks(model, TOKENIZER, "10 [MASK]", GREEDY)


# ---- with a real vocabulary


@cache
def chat_model() -> tuple[ChatGLMForCausalLM, ChatGLMTokenizer]:
    return load(CHAT), ChatGLMTokenizer.from_pretrained(GOLDEN / CHAT)


@pytest.mark.parametrize(
    "text", ["今天[MASK]很好。", "The  sky is [MASK], １２!", "[MASK] and [MASK]", "你好\n\t ok", "a[gMASK]b"]
)
def test_the_given_text_comes_back_unchanged(text: str) -> None:
    """Also where the tokenizer would change its spaces and its width."""
    result = fill_blanks(*chat_model(), text, FillOptions(temperature=0, max_length=32))
    given = [segment.text for segment in result.texts[0].segments if not segment.is_filling]
    parts = text.replace("[gMASK]", "[MASK]").split("[MASK]")
    assert given == [part for part in parts if part]
    assert sum(segment.is_filling for segment in result.texts[0].segments) == max(1, len(parts) - 1)


@pytest.mark.parametrize(
    ("text", "answer", "shown"),
    [
        ("The sky is [MASK].", "blue", "The sky is blue."),
        ("The sky is[MASK].", "blue", "The sky is blue."),
        ("[MASK] is blue", "The sky", "The sky is blue"),
        ("今天[MASK]很好", "天气", "今天天气很好"),
        ("今天[MASK]很好", "weather", "今天weather很好"),
        ("The word[MASK]", "天", "The word天"),
        ("天“[MASK]”", "sky", "天“sky”"),
        ("the sky ([MASK])", "blue", "the sky (blue)"),
        ("Hello", "world", "Hello world"),
    ],
)
def test_spaces_stand_where_words_need_them(
    text: str, answer: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = chat_model()
    ids = iter([*tokenizer.encode_text(answer), tokenizer.eos_token_id])

    def step(*args: Any, **kwargs: Any) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor([[next(ids)]]), model.config.vocab_size).float()

    monkeypatch.setattr("glm_model.generation.passes.DecodingBatch._forward", step)
    result = fill_blanks(model, tokenizer, text, GREEDY)
    assert result.texts[0].text == shown
    assert result.blanks[0].answers[0].text == answer
