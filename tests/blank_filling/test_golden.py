"""GLM-130B's own runs: inputs, greedy answers, beams and filled texts, in float32 and in half."""

import json
from functools import cache
from typing import Any

import pytest
import torch

from glm_model.blank_filling import FillOptions, FillResult, fill_blanks
from glm_model.blank_filling.answers import BlankPrompt, answer_blank, blank_position_ids, prompt_mask, write_beams
from glm_model.blank_filling.beam_search import BeamSearch
from glm_model.generation.alone import run
from glm_model.model import masking
from tests.blank_filling.toy import ENDS, EOS, GMASK, LIMIT, MASK, SMASK, SOP, IntegerTokenizer, golden_model
from tests.golden.data import GLM130B, GOLDEN, expected

RUNS = [pytest.param("expected", torch.float32, id="float32"), pytest.param("expected_fp16", torch.float16, id="half")]
CASES = ["g", "m", "s"]
BEAMS = {
    "beam3": {},
    "beam3_lp0.6_ngram2_min5": {"length_penalty": 0.6, "no_repeat_ngram_size": 2, "min_gen_length": 5},
}
GREEDY = FillOptions(temperature=0, max_length=LIMIT)


def beam3(**options: Any) -> FillOptions:
    return FillOptions(
        **{"strategy": "beam_search", "num_beams": 3, "max_length": LIMIT, "no_repeat_ngram_size": 0, **options}
    )


@cache
def published(stem: str) -> dict[str, Any]:
    return json.loads((GOLDEN / GLM130B / f"{stem}.json").read_text())


def case_prompt(case: str) -> tuple[list[int], int]:
    """The prompt and the index of its blank."""
    tokens = expected(GLM130B)[f"{case}.tokens"][0]
    prompt = tokens[tokens >= 0].tolist()
    return prompt, prompt.index({"g": GMASK, "m": MASK, "s": SMASK}[case])


def without_end(ids: list[int]) -> list[int]:
    return ids[:-1] if ids[-1] in ENDS else ids


@pytest.mark.parametrize("case", CASES)
def test_inputs(case: str) -> None:
    values, (prompt, blank) = expected(GLM130B), case_prompt(case)
    mask = masking.extend_mask(prompt_mask(len(prompt)), LIMIT)
    assert torch.equal(mask, values[f"{case}.attention_mask"])
    positions = blank_position_ids(golden_model().config, len(prompt), blank, prompt[blank], LIMIT)
    assert torch.equal(positions, values[f"{case}.position_ids"])


@pytest.mark.parametrize(("stem", "dtype"), RUNS)
@pytest.mark.parametrize("case", CASES)
def test_greedy(stem: str, dtype: torch.dtype, case: str) -> None:
    wanted = expected(GLM130B, stem)[f"{case}.greedy_tokens"][0].tolist()
    prompt, blank = case_prompt(case)
    for options in (GREEDY, FillOptions(top_k=1, top_p=0, max_length=LIMIT)):
        (answer,) = answer_blank(golden_model(dtype), prompt, blank, options)
        assert prompt + list(answer.token_ids) == without_end(wanted)
        assert answer.finish_reason == ("stop" if wanted[-1] in ENDS else "length")
        assert answer.score is None


@pytest.mark.parametrize(("stem", "dtype"), RUNS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", BEAMS)
def test_beams(stem: str, dtype: torch.dtype, case: str, name: str) -> None:
    wanted = published(stem)[f"{case}.{name}"]
    prompt, blank = case_prompt(case)
    answers = answer_blank(golden_model(dtype), prompt, blank, beam3(**BEAMS[name]))
    assert [prompt + list(answer.token_ids) for answer in answers] == [without_end(ids) for ids in wanted["beams"]]
    assert [answer.score for answer in answers] == pytest.approx(wanted["penalized_scores"], rel=1e-5)
    assert [answer.finish_reason == "stop" for answer in answers] == [ids[-1] in ENDS for ids in wanted["beams"]]


@pytest.mark.parametrize(("stem", "dtype"), RUNS)
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_beams_without_the_ended(stem: str, dtype: torch.dtype, case: str) -> None:
    prompt, blank = case_prompt(case)
    search = BeamSearch(prompt, 3, ENDS)
    model = golden_model(dtype)
    for _ in run(model, write_beams(BlankPrompt(model, prompt, blank, LIMIT), search, LIMIT)):
        pass
    wanted = published(stem)[f"{case}.beam3_noconsider"]["beams"]
    assert [beam.token_ids for beam in search.beams(consider_end=False)] == wanted


def filled_texts() -> list[Any]:
    return [
        pytest.param(dtype, wanted, id=f"{dtype}-{wanted['strategy']}-{wanted['text']}".removeprefix("torch."))
        for stem, dtype in (run.values for run in RUNS)
        for wanted in published(stem)["fill_blanks"]
    ]


@pytest.mark.parametrize(("dtype", "wanted"), filled_texts())
def test_fill_blanks(dtype: torch.dtype, wanted: dict[str, Any]) -> None:
    options = GREEDY if wanted["strategy"] == "BaseStrategy" else beam3()
    result = fill_blanks(golden_model(dtype), IntegerTokenizer(), wanted["text"], options)
    assert [list(blank.prompt_ids) for blank in result.blanks] == wanted["model_inputs"]
    assert [text.decoded for text in result.texts] == wanted["answers"]
    assert [text.text for text in result.texts] == wanted["answers"]
    answers, styled, blanks = as_published(result)
    assert answers == wanted["answers"]
    assert styled == wanted["styled"]
    assert blanks == wanted["blanks"]


def as_published(result: FillResult) -> tuple[list[str], list[str], list[list[str]]]:
    """The three lists that generate.py returns (answers, underlined answers, fillings per beam), from our result.

    There beam i of a later blank keeps the fillings and the underlining of beam i of the blanks before, although its
    text holds those of beam 0.
    """
    decode = IntegerTokenizer().decode_exact
    beams = range(len(result.texts))
    texts, shown_until = [list(result.blanks[0].prompt_ids[:-1]) for _ in beams], [0 for _ in beams]
    styled = ["" for _ in beams]
    fillings: list[list[str]] = [[] for _ in beams]
    uses_gmask = MASK not in texts[0] and SMASK not in texts[0]
    kind = MASK if MASK in texts[0] else GMASK if uses_gmask else SMASK
    start, end = ("\033[4m", "\033[0m") if uses_gmask else ("\033[0;32m\033[4m", "\033[0m\033[0m")
    for blank in result.blanks:
        text = list(blank.prompt_ids[:-1])
        place = text.index(kind)
        for i in beams:
            answer = list(blank.answers[i].token_ids)
            styled[i] += f"{decode(text[shown_until[i] : place])} {start}{blank.answers[i].text}{end} "
            fillings[i].append(blank.answers[i].text)
            shown_until[i] = place + len(answer)
            texts[i] = text[:place] + answer + text[place + 1 :]
    texts = [text[:-1] if text[-1] == EOS else text for text in texts]
    styled = [line + decode(text[done:]) for line, text, done in zip(styled, texts, shown_until, strict=True)]
    assert all(SOP not in text for text in texts)
    return [decode(text) for text in texts], styled, fillings
