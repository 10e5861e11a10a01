"""Answers in batches: equal to those of a prompt alone, and ended where the task says."""

from typing import Any

import pytest
import torch

from glm_model.blank_filling import FillOptions, fill_blanks
from glm_model.evaluation import EvaluationOptions, TaskEncoder
from glm_model.evaluation.writing import write

CONTEXTS = ["21 22 23 24", "77", "21 [MASK] 23 24 25 26 27", "5 6 7"]


@pytest.fixture(scope="module")
def prompts(glm130b: tuple[Any, Any]) -> list[tuple[int, ...]]:
    model, tokenizer = glm130b
    encoder = TaskEncoder(model.config, tokenizer)
    return [encoder.prompt(context, 12).input_ids for context in CONTEXTS]


def greedy(model: Any, prompt: tuple[int, ...], count: int) -> list[int]:
    """A pass over everything for every token."""
    ids = list(prompt)
    while len(ids) < len(prompt) + count:
        with torch.no_grad():
            token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        if token in model.config.eos_token_id:
            break
        ids.append(token)
    return ids[len(prompt) :]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_batches_write_what_a_prompt_alone_gets(glm130b: Any, prompts: Any, batch_size: int) -> None:
    model, tokenizer = glm130b
    written = [
        text
        for start in range(0, len(prompts), batch_size)
        for text in write(model, tokenizer, prompts[start : start + batch_size], 12)
    ]
    assert written == [tokenizer.decode_exact(greedy(model, prompt, 12)) for prompt in prompts]
    assert len({len(text.split()) for text in written}) > 1  # some end before the others


def test_an_answer_ends_before_a_stop_text(glm130b: Any, prompts: Any) -> None:
    model, tokenizer = glm130b
    whole = write(model, tokenizer, prompts, 12)
    stop = whole[0].split()[2]
    cut = write(model, tokenizer, prompts, 12, [f" {stop}", ""])
    assert cut == [text.split(f" {stop}")[0] for text in whole]
    assert cut[0] != whole[0]


def test_nothing_is_written_behind_a_stop_text(glm130b: Any, prompts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = glm130b
    (whole,) = write(model, tokenizer, prompts[:1], 12)
    passes = []
    forward = model.forward

    def counting(input_ids: Any, **kwargs: Any) -> Any:
        passes.append(len(input_ids))
        return forward(input_ids, **kwargs)

    monkeypatch.setattr(model, "forward", counting)
    write(model, tokenizer, prompts[:1], 12, [f" {whole.split()[2]}"])
    assert len(passes) == 3


def test_a_blank_is_filled_as_by_fill_blanks(demo: tuple[Any, Any]) -> None:
    model, tokenizer = demo
    text = "The capital of France is [MASK]."
    prompt = TaskEncoder(model.config, tokenizer, EvaluationOptions(mask="MASK")).prompt(text, 8).input_ids
    (written,) = write(model, tokenizer, [prompt], 8)
    filled = fill_blanks(model, tokenizer, text, FillOptions(temperature=0, max_length=len(prompt) + 8))
    assert written == filled.blanks[0].answers[0].text
