"""End to end with the published snippet: tokenizer, chat, stream_chat and batches against the original's texts.

Most answers were trained into the set's weights; in the others the two best logits come as near as 0.0018
(`min_top2_gap`), which is still a hundred times the rounding of float32 here.
"""

import json
from functools import cache
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import glm_model  # noqa: F401  registers the classes, as a user's program does
from tests.golden.data import CHAT, GOLDEN, assert_close, expected
from tests.golden.models import answering

TEXTS: dict[str, list[dict[str, Any]]] = json.loads((GOLDEN / CHAT / "expected.json").read_text(encoding="utf-8"))


@cache
def load() -> tuple[Any, Any]:
    """Word for word the published snippet, `.float()` in place of `.half().cuda()`."""
    path = GOLDEN / CHAT
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)
    model = AutoModel.from_pretrained(path, trust_remote_code=True).float()
    return model.eval(), tokenizer


def entries(kind: str) -> Any:
    cases = [pytest.param(case, id=str(index)) for index, case in enumerate(TEXTS[kind])]
    return pytest.mark.parametrize("case", cases)


@entries("chat")
def test_chat(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt's ids, the answer's ids, its text, and the history with the round added."""
    model, tokenizer = load()
    generate, outputs = model.generate, list[Any]()

    def seen(**inputs: Any) -> Any:
        outputs.append(generate(**inputs))
        return outputs[-1]

    monkeypatch.setattr(model, "generate", seen)
    history = [tuple(pair) for pair in case["history"]]
    beams = {"num_beams": case["num_beams"]} if "num_beams" in case else {}
    response, new_history = model.chat(
        tokenizer, case["query"], history=history, do_sample=False, max_length=case["max_length"], **beams
    )
    assert response == case["response"]
    assert [list(pair) for pair in new_history] == case["new_history"]
    assert [list(pair) for pair in history] == case["history"], "the caller's history was changed"
    if "output_ids" in case:  # beam entries have the text alone
        assert tokenizer.build_prompt(case["query"], history) == case["prompt"]
        assert outputs[0][0].tolist() == case["input_ids"] + case["output_ids"]
        assert tokenizer.decode(case["output_ids"]) == case["raw_decode"]


@entries("stream_chat")
def test_stream_chat(case: dict[str, Any]) -> None:
    """Every yield, with the characters that are split over tokens and without the last token."""
    model, tokenizer = load()
    history = [tuple(pair) for pair in case["history"]]
    yields = list(model.stream_chat(tokenizer, case["query"], history, do_sample=False, max_length=case["max_length"]))
    assert [text for text, _ in yields] == case["yields"]
    if case["last_history"] is not None:
        assert [list(pair) for pair in yields[-1][1]] == case["last_history"]


@entries("generate_batch")
def test_left_padded_batch(case: dict[str, Any]) -> None:
    """Masks and positions come from the tokenizer, ended rows are filled up."""
    model, tokenizer = load()
    inputs = tokenizer(case["texts"], return_tensors="pt", padding=True)
    assert inputs["input_ids"].tolist() == case["input_ids"]
    output = model.generate(**inputs, do_sample=False, max_length=case["max_length"])
    assert output.tolist() == case["output_ids"]
    assert tokenizer.batch_decode(output) == case["batch_decode"]
    assert tokenizer.batch_decode(output, skip_special_tokens=True) == case["batch_decode_skip_special"]


@pytest.mark.parametrize("entry", [0, 3, 25])
@torch.no_grad()
def test_last_logits(entry: int) -> None:
    """28 layers deep; the file's tied head and float16 weights."""
    values = expected(CHAT)
    logits = load()[0](values[f"chat{entry}.input_ids"]).logits[:, -1]
    assert_close(logits, values[f"chat{entry}.last_logits"])


def test_chat_draws_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without arguments: temperature 0.95, then the 50 best, then the nucleus of 0.7, for chat and stream_chat."""
    model, tokenizer = load()
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, model.config.vocab_size, generator=generator) * 3
    wanted = published_probabilities(logits[0])
    drawn: list[torch.Tensor] = []

    def draw(probabilities: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        drawn.append(probabilities[0])
        return torch.tensor([[model.config.eos_token_id]])

    monkeypatch.setattr(torch, "multinomial", draw)
    answering(model, logits, monkeypatch)
    model.chat(tokenizer, "你好", history=[])
    list(model.stream_chat(tokenizer, "你好", history=[]))
    assert len(drawn) == 2
    for probabilities in drawn:
        assert_close(probabilities, wanted)


def published_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Temperature, top-k, top-p one after the other, each on what the one before has left."""
    scores, order = (logits / 0.95).sort(descending=True)
    scores[50:] = -torch.inf
    before = scores.softmax(-1).cumsum(-1) - scores.softmax(-1)
    scores[before >= 0.7] = -torch.inf
    return torch.zeros_like(scores).scatter(0, order, scores.softmax(-1))
