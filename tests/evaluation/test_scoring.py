"""Log-probabilities against a slow computation of the same."""

from typing import Any

import pytest
import torch

from glm_model import GLMError
from glm_model.evaluation import EvaluationOptions, ScoredSequence, TaskEncoder, score
from tests.evaluation import reference

TOLERANCE = 2e-5

# (context, targets of one and of several tokens), in integers for the golden model.
QUESTIONS = [
    ("21 22 23 24", ["30", "31", "30 31 32"]),
    ("21 [MASK] 23 24 25 26 27", ["40 41", "42", "40 43 44 45"]),
    ("", ["50 51"]),
    ("77", ["60 61 62 63 64 65 66", "60"]),
]
SENTENCES = [
    ("The capital of France is [MASK].", ["Paris", "Rome", "New Delhi"]),
    ("“大”的反义词是“[MASK]”。", ["小", "高", "便宜"]),
    ("2 + 3 = ?", ["2 + 3 = 5.", "5", "2 + 3 = 6."]),
    ("", ["Hello", "你好"]),
]


def pairs(questions: list[Any]) -> list[tuple[str, str]]:
    return [(context, target) for context, targets in questions for target in targets]


def expected(model: Any, made: ScoredSequence) -> tuple[float, bool]:
    context = list(made.input_ids[: made.input_ids.index(model.config.bos_token_id)])
    masks = [model.config.mask_token_id, model.config.gmask_token_id]
    blank = next(place for place, token in enumerate(context) if token in masks)
    return reference.log_probability(model, context, blank, made.target_ids)


def require_equal(model: Any, sequences: list[ScoredSequence], batch_size: int) -> None:
    scores = score(model, sequences, batch_size)
    wanted = [expected(model, sequence) for sequence in sequences]
    assert [one.log_probability for one in scores] == pytest.approx([total for total, _ in wanted], abs=TOLERANCE)
    assert [one.is_greedy for one in scores] == [greedy for _, greedy in wanted]


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("mask", ["MASK", "gMASK"])
def test_glm130b(glm130b: tuple[Any, Any], mask: Any, batch_size: int) -> None:
    model, tokenizer = glm130b
    encoder = TaskEncoder(model.config, tokenizer, EvaluationOptions(mask=mask))
    require_equal(model, [encoder.option(*pair) for pair in pairs(QUESTIONS)], batch_size)


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("name", ["demo", "demo_int4"])
def test_chatglm(name: str, batch_size: int, request: pytest.FixtureRequest) -> None:
    model, tokenizer = request.getfixturevalue(name)
    encoder = TaskEncoder(model.config, tokenizer)
    require_equal(model, [encoder.option(*pair) for pair in pairs(SENTENCES)], batch_size)


def test_what_the_model_writes_is_greedy(glm130b: tuple[Any, Any]) -> None:
    """Both answers occur: the tests above would not notice a constant if none was greedy."""
    model, _ = glm130b
    context = (21, 22, model.config.gmask_token_id, model.config.bos_token_id)
    written = tuple(model.generate(torch.tensor([context]), max_new_tokens=3, do_sample=False)[0, 4:].tolist())
    other = (*written[:-1], written[-1] - 1)
    right, wrong = (ScoredSequence((*context, *target[:-1]), target) for target in (written, other))
    assert [one.is_greedy for one in score(model, [wrong, right])] == [False, True]


def test_options_score_as_in_the_originals_one_sequence(glm130b: tuple[Any, Any]) -> None:
    """GLM-130B puts all options of a question behind one context."""
    model, tokenizer = glm130b
    encoder = TaskEncoder(model.config, tokenizer)
    for context, targets in QUESTIONS:
        made = [encoder.option(context, target) for target in targets]
        text = list(made[0].input_ids[: made[0].input_ids.index(model.config.bos_token_id)])
        blank = text.index(model.config.mask_token_id)
        packed = reference.packed_scores(model, text, blank, [one.target_ids for one in made])
        assert [one.log_probability for one in score(model, made, 3)] == pytest.approx(packed, abs=TOLERANCE)


@pytest.mark.parametrize("name", ["glm130b", "demo"])
def test_unidirectional(name: str, request: pytest.FixtureRequest) -> None:
    model, tokenizer = request.getfixturevalue(name)
    encoder = TaskEncoder(model.config, tokenizer, EvaluationOptions(unidirectional=True))
    texts = [("21 22 23 24", " 25 26 27"), ("", "30 31"), ("40", " 41")]
    made = [encoder.option(*pair) for pair in texts]
    wanted = []
    for one in made:
        known = one.input_ids[2 : len(one.input_ids) - len(one.target_ids) + 1]
        wanted.append(reference.causal_log_probability(model, known, one.target_ids))
    for batch_size in (1, 3):
        scores = score(model, made, batch_size)
        assert [one.log_probability for one in scores] == pytest.approx(wanted, abs=TOLERANCE)


def test_a_whole_text_in_windows(glm130b: tuple[Any, Any]) -> None:
    model, tokenizer = glm130b
    text = list(range(20, 47))
    windows = TaskEncoder(model.config, tokenizer, EvaluationOptions(max_length=12, rolling_stride=5)).windows(
        " ".join(map(str, text))
    )
    wanted = reference.log_probability(model, [model.config.gmask_token_id], 0, text[:11])[0]
    for start in range(11, len(text), 5):
        context = [*text[start - 6 : start], model.config.gmask_token_id]
        wanted += reference.log_probability(model, context, 6, text[start : start + 5])[0]
    assert sum(one.log_probability for one in score(model, windows, 4)) == pytest.approx(wanted, abs=1e-4)


def test_options_of_one_token_share_a_pass(glm130b: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = glm130b
    rows = []
    forward = model.forward

    def counting(input_ids: Any, **kwargs: Any) -> Any:
        rows.append(len(input_ids))
        return forward(input_ids, **kwargs)

    monkeypatch.setattr(model, "forward", counting)
    encoder = TaskEncoder(model.config, tokenizer)
    score(model, [encoder.option(context, str(token)) for context in ("21 22", "23") for token in range(30, 34)], 8)
    assert rows == [2]


def test_the_longest_come_first(glm130b: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = glm130b
    lengths = []
    forward = model.forward

    def watching(input_ids: Any, **kwargs: Any) -> Any:
        lengths.append(input_ids.shape[1])
        return forward(input_ids, **kwargs)

    monkeypatch.setattr(model, "forward", watching)
    encoder = TaskEncoder(model.config, tokenizer)
    score(model, [encoder.option(context, "30") for context in ("21", "21 22 23", "24 25", "21 22 23 24")], 2)
    assert lengths == [6, 4]


def test_scores_that_are_not_finite_are_refused(glm130b: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = glm130b
    weight = model.model.norm.weight
    monkeypatch.setattr(weight, "data", torch.full_like(weight, torch.nan))
    with pytest.raises(GLMError, match="not finite"):
        score(model, [TaskEncoder(model.config, tokenizer).option("21", "22")])
