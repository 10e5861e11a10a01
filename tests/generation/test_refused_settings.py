"""Settings of `generate` that a bidirectional prompt cannot follow name themselves, on every way to it."""

from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from glm_model import ChatGLMTokenizer, UnsupportedError
from tests.golden.data import CHAT, GOLDEN
from tests.golden.models import load

SETTINGS: list[dict[str, Any]] = [
    {"guidance_scale": 1.5},
    {"guidance_scale": 0},
    {"token_healing": True},
    {"negative_prompt_ids": torch.ones(1, 2, dtype=torch.long)},
    {"negative_prompt_ids": torch.ones(1, 2, dtype=torch.long), "guidance_scale": 1.5},
]


@pytest.fixture(scope="module")
def tokenizer() -> ChatGLMTokenizer:
    return ChatGLMTokenizer.from_pretrained(GOLDEN / CHAT)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "+".join(settings))
def test_by_argument(settings: dict[str, Any], tokenizer: ChatGLMTokenizer) -> None:
    model, words = load(CHAT), f"^({'|'.join(settings)}).*Leave it out"
    inputs = tokenizer("你好", return_tensors="pt")
    with pytest.raises(UnsupportedError, match=words):
        model.generate(**inputs, max_new_tokens=2, **settings)
    with pytest.raises(UnsupportedError, match=words):
        model.chat(tokenizer, "你好", **settings)
    with pytest.raises(UnsupportedError, match=words):
        next(model.stream_chat(tokenizer, "你好", **settings))


@pytest.mark.parametrize("place", ["argument", "model"])
def test_by_configuration(place: str, tokenizer: ChatGLMTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    model, config = load(CHAT), GenerationConfig(token_healing=True, max_new_tokens=2)
    options = {"generation_config": config} if place == "argument" else {}
    monkeypatch.setattr(model, "generation_config", config)
    with pytest.raises(UnsupportedError, match="token_healing=True"):
        model.generate(**tokenizer("你好", return_tensors="pt"), **options)


@pytest.mark.parametrize("settings", [{"guidance_scale": 1}, {"guidance_scale": None}, {"token_healing": False}])
def test_what_asks_for_nothing(settings: dict[str, Any], tokenizer: ChatGLMTokenizer) -> None:
    model, inputs = load(CHAT), tokenizer("你好", return_tensors="pt")
    wanted = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert torch.equal(model.generate(**inputs, max_new_tokens=2, do_sample=False, **settings), wanted)


def test_stop_strings_take_a_tokenizer(tokenizer: ChatGLMTokenizer) -> None:
    """transformers hands the tokenizer on to the forward pass, which refuses what it does not know."""
    model, inputs = load(CHAT), tokenizer("你好", return_tensors="pt")
    free = model.generate(**inputs, max_new_tokens=6, do_sample=False, eos_token_id=-1)
    first = tokenizer.decode(free[0, inputs["input_ids"].shape[1]].tolist())
    options: dict[str, Any] = {"stop_strings": [first], "tokenizer": tokenizer}
    stopped = model.generate(**inputs, max_new_tokens=6, do_sample=False, eos_token_id=-1, **options)
    assert stopped.shape[1] == inputs["input_ids"].shape[1] + 1
