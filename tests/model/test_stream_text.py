"""The stream of the front-ends: every token, the words of `chat`, stopped within a token."""

import copy
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from glm_model import SamplingOptions, TextChunk, stream_text
from glm_model.text.chat_format import process_response

GREEDY = SamplingOptions(max_length=200, temperature=0)


@pytest.fixture(scope="module")
def chat_model(golden: Path) -> tuple[Any, Any]:
    folder = golden / "chatglm_tiny_chat"
    return AutoModel.from_pretrained(folder).float().eval(), AutoTokenizer.from_pretrained(folder)


def prompt(tokenizer: Any, text: str = "你好") -> list[int]:
    messages = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


def chunks(chat_model: tuple[Any, Any], options: SamplingOptions, **kwargs: Any) -> list[TextChunk]:
    model, tokenizer = chat_model
    return list(stream_text(model, tokenizer, prompt(tokenizer), options, **kwargs))


def test_the_pieces_are_the_whole_answer(chat_model: tuple[Any, Any]) -> None:
    model, tokenizer = chat_model
    ids = prompt(tokenizer)
    answer = model.generate(torch.tensor([ids]), do_sample=False, max_length=200)[0, len(ids) :].tolist()
    found = chunks(chat_model, GREEDY)
    assert "".join(chunk.text for chunk in found) == process_response(tokenizer.decode_exact(answer))
    assert found[-1].finish_reason == "stop"
    assert found[-1].token_count == len(answer) - 1  # <eop> is not counted
    assert all(chunk.finish_reason is None for chunk in found[:-1])


def test_the_last_token_before_the_limit_is_not_lost(chat_model: tuple[Any, Any]) -> None:
    model, tokenizer = chat_model
    ids = prompt(tokenizer)
    options = SamplingOptions(max_length=len(ids) + 3, temperature=0)
    found = chunks(chat_model, options)
    answer = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=3)[0, len(ids) :].tolist()
    assert "".join(chunk.text for chunk in found) == process_response(tokenizer.decode_exact(answer))
    assert (found[-1].finish_reason, found[-1].token_count) == ("length", 3)


def test_a_stop_takes_effect_at_the_next_token(chat_model: tuple[Any, Any]) -> None:
    asked = 0

    def stop_at_second() -> bool:
        nonlocal asked
        asked += 1
        return asked == 2

    found = chunks(chat_model, GREEDY, should_stop=stop_at_second)
    assert (found[-1].finish_reason, found[-1].token_count) == ("cancelled", 2)


def test_a_seed_makes_an_answer_reproducible_and_leaves_torch_alone(chat_model: tuple[Any, Any]) -> None:
    hot: dict[str, Any] = {"max_length": 60, "temperature": 5.0, "top_p": 1.0, "top_k": 0}
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again, other = (chunks(chat_model, SamplingOptions(**hot, seed=seed)) for seed in (7, 7, 8))
    assert first == again
    assert first != other
    assert torch.equal(state, torch.get_rng_state())


def test_a_prompt_without_room_is_refused(chat_model: tuple[Any, Any]) -> None:
    length = len(prompt(chat_model[1]))
    with pytest.raises(ValueError, match=f"{length} tokens and max_length is {length}"):
        chunks(chat_model, SamplingOptions(max_length=length))


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_length", 0), ("temperature", -0.1), ("temperature", float("inf")), ("temperature", float("nan")),
     ("top_p", 0.0), ("top_p", 1.1), ("top_p", float("nan")), ("top_k", -1), ("seed", 1.5), ("seed", 2**64)],
)  # fmt: skip
def test_settings_out_of_range_are_named(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field} must be"):
        SamplingOptions(**{field: cast(Any, value)})


@pytest.mark.parametrize("temperature", [0, 1e-40, 9e-7])
def test_temperature_zero_is_greedy_everywhere(chat_model: tuple[Any, Any], temperature: float) -> None:
    """And so is one that scores cannot be divided by."""
    model, tokenizer = chat_model
    greedy, _ = model.chat(tokenizer, "你好", do_sample=False)
    assert model.chat(tokenizer, "你好", temperature=temperature)[0] == greedy
    streamed = [text for text, _ in model.stream_chat(tokenizer, "你好", temperature=temperature)]
    assert streamed[-1] == greedy
    options = SamplingOptions(max_length=200, temperature=temperature)
    assert options.generation_kwargs() == GREEDY.generation_kwargs()


def test_published_limits_on_long_prompts(chat_model: tuple[Any, Any]) -> None:
    """A prompt of max_length or more: `chat` answers one token, `stream_chat` yields nothing."""
    model, tokenizer = chat_model
    _, history = model.chat(tokenizer, "你好", max_length=2, do_sample=False)
    assert len(history) == 1
    assert list(model.stream_chat(tokenizer, "你好", max_length=2, do_sample=False)) == []


@pytest.mark.parametrize("by_config", [False, True])
def test_max_new_tokens_count_instead_of_max_length(chat_model: tuple[Any, Any], by_config: bool) -> None:
    model, tokenizer = chat_model
    limit: dict[str, Any] = {"max_new_tokens": 4}
    if by_config:
        config = copy.deepcopy(model.generation_config)
        config.update(**limit)
        limit = {"generation_config": config}
    long_enough = [answer for answer, _ in model.stream_chat(tokenizer, "你好", temperature=0)]
    streamed = [answer for answer, _ in model.stream_chat(tokenizer, "你好", max_length=2, temperature=0, **limit)]
    assert streamed == long_enough[:3]
