"""The logic of benchmarks/serve.py; that it starts is tested with all others."""

import sys

import pytest
import torch

from app.serving.jobs import encode
from benchmarks import serve
from benchmarks.serving import chats, limits, passes, tables
from benchmarks.serving.limits import Speed, Work
from glm_model import DEMO_MODEL, ChatGLMConfig, ChatGLMForCausalLM, ChatGLMTokenizer
from glm_model.loading import set_precision

LAYERS = 28 * 12 * 4096**2  # products of a token in ChatGLM-6B's layers: 3 + 1 + 4 + 4 square matrices in each
HEAD = 130528 * 4096


@pytest.fixture(scope="module")
def packed() -> ChatGLMForCausalLM:
    """A model of ChatGLM-6B's shape in INT4, without memory."""
    with torch.device("meta"):
        return ChatGLMForCausalLM(
            ChatGLMConfig.preset("chatglm-6b", quantization_bit=4, quantization_embeddings=True)
        ).float()


def test_work_of_a_step(packed: ChatGLMForCausalLM) -> None:
    packed.runtime.cache_dtype = torch.float16
    set_precision(packed, "fast")
    work = limits.work_of_step(packed, rows=8, context=64)
    cache = 8 * 64 * 28 * 2 * 4096 * 2  # rows, tokens, layers, keys and values, columns, bytes
    assert work.read == (LAYERS + HEAD) // 2 + cache
    assert work.integers == 8 * (LAYERS + HEAD)
    assert work.floats == 8 * 65 * 28 * 2 * 4096  # scores, and sums of values
    set_precision(packed, "exact")
    attention = work.floats
    assert limits.work_of_step(packed, 8, 64) == Work(work.read, 0, 8 * (LAYERS + HEAD) + attention)
    # One row of `exact` is three of integers.
    assert limits.work_of_step(packed, 1, 64).integers == 3 * (LAYERS + HEAD)


def test_work_of_a_prompt_has_the_head_once(packed: ChatGLMForCausalLM) -> None:
    set_precision(packed, "fast")
    assert limits.work_of_prompt(packed, 512).integers == 512 * LAYERS + HEAD


def test_limits_are_the_time_of_each_part() -> None:
    speed = Speed(read=10.0, integers=100.0, floats=5.0)
    assert Work(read=40, integers=50, floats=10).seconds(speed) == (4.0, 2.5)


def test_shares_are_those_of_the_limits_of_the_same_turn() -> None:
    """A machine at half its speed for a turn reaches as much of its limits."""
    fast, slow = Speed(read=10.0, integers=100.0, floats=5.0), Speed(read=5.0, integers=50.0, floats=2.5)
    turns = [passes._Turn(8.0, fast), passes._Turn(16.0, slow), passes._Turn(8.0, fast)]
    table = passes._shares([Work(read=40, integers=50, floats=10)], [turns])
    assert table["of_memory"] == [0.5]
    assert table["of_arithmetic"] == [0.3125]
    assert table["read_GBps"] == 1e-8


def test_this_machine_is_measured() -> None:
    speed = limits.Machine(torch.nn.Linear(64, 64)).speed()
    assert speed.integers > speed.floats > 1e8  # four integers fit where a float does
    assert speed.read > 0


def test_gaps_are_those_of_the_time_between_two_moments() -> None:
    assert chats._gaps([0.0, 1.0, 2.0, 5.0, 6.0, 9.0], 2.5, 5.5) == [3.0, 1.0]


def test_tables_have_a_row_for_each_entry() -> None:
    figures = {"rows": [1, 8], "ms": [0.5, 1.25], "transformers_ms": [7.0, 46.0]}
    *_, heading, _, first, second = tables.markdown("sampling", [{"words": 9, **figures}]).splitlines()
    assert heading == "| rows | ms a step | transformers, ms |"
    assert first == "| 1 | 0.50 | 7.00 |"
    assert second == "| 8 | 1.25 | 46.00 |"


def test_a_number_that_cannot_be_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["serve.py", "--sampled-rows", "8", "0"])
    with pytest.raises(SystemExit):
        serve.main()
    assert "--sampled-rows must be at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("tokens", [16, 112, 512])
def test_questions_are_as_long_as_asked_and_never_the_same(tokens: int) -> None:
    tokenizer = ChatGLMTokenizer.from_pretrained(DEMO_MODEL)
    first, second = (chats.question(tokenizer, tokens) for _ in range(2))
    assert first != second
    for messages in (first, second):
        assert tokens <= len(encode(tokenizer, messages)) <= tokens + 2
