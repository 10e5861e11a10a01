"""The engine with a real (tiny) model: what the fakes stand for holds."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from app.options import Options, parse_terminal
from app.serving.conversation import Message
from app.serving.engine import Engine
from app.serving.jobs import encode
from app.serving.reply import Event, Failed, Finished, Text, Trimmed
from glm_model.generation.stream import stream_text
from glm_model.options import SamplingOptions

pytestmark = pytest.mark.timeout(120)

GREETING: list[Message] = [{"role": "user", "content": "你好"}]


@pytest.fixture(scope="module")
def folder() -> Path:
    return Path(__file__).parents[1] / "data" / "golden" / "chatglm_tiny_chat"


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    with Engine.from_options(Options(model=str(folder), device="cpu")) as engine:
        yield engine


def ask(engine: Engine, messages: list[Message], **sampling: object) -> list[Event]:
    return list(engine.submit(messages, SamplingOptions(**{"max_length": 64, **sampling})))  # type: ignore[arg-type]


def text_of(events: list[Event]) -> str:
    return "".join(event.delta for event in events if isinstance(event, Text))


def test_the_engine_says_what_the_model_says(engine: Engine) -> None:
    prompt = engine._tokenizer.apply_chat_template(GREETING, add_generation_prompt=True, return_dict=False)
    chunks = list(stream_text(engine._model, engine._tokenizer, prompt, SamplingOptions(temperature=0, max_length=64)))
    events = ask(engine, GREETING, temperature=0)
    assert text_of(events) == "".join(chunk.text for chunk in chunks)
    assert text_of(events).startswith("你好👋")
    assert events[-1] == Finished("stop", len(prompt), chunks[-1].token_count)


def test_a_seed_gives_the_same_answer_whatever_others_ask_meanwhile(engine: Engine) -> None:
    question: list[Message] = [{"role": "user", "content": "tell me"}]
    settings = {"temperature": 5.0, "top_p": 1.0, "top_k": 0}
    alone = text_of(ask(engine, question, seed=7, **settings))
    others = [engine.submit(question, SamplingOptions(max_length=64, seed=seed)) for seed in (None, 3)]
    among = engine.submit(question, SamplingOptions(max_length=64, seed=7, **settings))  # type: ignore[arg-type]
    assert text_of(list(among)) == alone
    assert all(isinstance(list(reply)[-1], Finished) for reply in others)
    assert text_of(ask(engine, question, seed=8, **settings)) != alone


def test_trimming_counts_the_tokens_of_the_real_prompt(engine: Engine) -> None:
    messages: list[Message] = []
    for number in range(30):
        messages += [{"role": "user", "content": f"问题{number}"}, {"role": "assistant", "content": "回答" * 5}]
    events = ask(engine, [*messages, *GREETING], max_length=128, temperature=0)
    trimmed = [event.rounds for event in events if isinstance(event, Trimmed)]
    end = events[-1]
    assert isinstance(end, Finished)
    assert 0 < trimmed[0] < 30
    assert end.prompt_tokens <= 128 - 32
    one_round_more = [*messages[2 * (trimmed[0] - 1) :], *GREETING]
    assert len(encode(engine._tokenizer, one_round_more)) > 128 - 32


def test_a_long_message_is_refused_with_its_count(engine: Engine) -> None:
    end = ask(engine, [{"role": "user", "content": "长" * 200}])[-1]
    assert isinstance(end, Failed)
    assert end.tokens > end.limit == 48


def test_what_is_known_of_it(engine: Engine, folder: Path) -> None:
    info = engine.model_info
    assert (info.name, info.device, info.quantization, info.is_demo) == ("chatglm_tiny_chat", "cpu", None, False)
    stored = load_file(folder / "model.safetensors")
    weights = {key: value for key, value in stored.items() if not key.endswith("inv_freq") and key != "lm_head.weight"}
    assert info.parameters == sum(value.numel() for value in weights.values())


def test_every_option_of_the_model_reaches_the_loader(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    options = parse_terminal([f"--model={folder}", "--device=cpu", "--dtype=bfloat16", "--threads=1"])
    with Engine.from_options(options) as engine:
        assert engine._model.dtype == torch.bfloat16
        assert threads == [1]
        assert isinstance(ask(engine, GREETING, temperature=0)[-1], Finished)
