"""The engine fills texts: the same thread and queue as conversations, the same ways to stop and to fail."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.options import Options
from app.serving.engine import Engine, EngineClosed, QueueFull
from app.serving.reply import Event, Failed, Filled, Filling, Finished, Queued, Reply, Text
from glm_model import SamplingOptions
from glm_model.blank_filling import FillOptions, FillResult, fill_blanks
from glm_model.loading import load
from tests.app.fakes import FakeFill, FakeModel, FakeStream, FakeTokenizer

pytestmark = pytest.mark.timeout(60)

OPTIONS = FillOptions(every_kind=True)
TINY = Path(__file__).parents[1] / "data" / "golden" / "chatglm_tiny_chat"


@pytest.fixture
def fill() -> FakeFill:
    return FakeFill()


@pytest.fixture
def make(fill: FakeFill) -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def make(**settings: Any) -> Engine:
        engines.append(Engine(FakeModel(), FakeTokenizer(), write_text=FakeStream(), write_fill=fill, **settings))
        return engines[-1]

    yield make
    if fill.gate is not None:
        fill.gate.release(1_000_000)
    for engine in engines:
        engine.close()


def result_of(events: list[Event]) -> FillResult:
    *_, filled, finished = events
    assert isinstance(filled, Filled)
    assert isinstance(finished, Finished)
    return filled.result


def started(reply: Reply) -> Reply:
    """A reply that runs, held before its first token."""
    while not isinstance(next(reply), Text):
        pass
    return reply


def test_a_text_is_filled(make: Callable[..., Engine]) -> None:
    events = list(make().fill("a [MASK] b [MASK] c", OPTIONS))
    assert result_of(events).texts[0].text == "a filling 1 b filling 2 c"
    assert events[-1] == Finished("stop", prompt_tokens=1, answer_tokens=2)


def test_fillings_are_seen_as_they_grow(make: Callable[..., Engine], fill: FakeFill) -> None:
    fill.gate = threading.Semaphore(0)
    reply = started(make().fill("a [MASK] b [MASK] c", OPTIONS))
    fill.gate.release(1)
    event = next(reply)
    assert isinstance(event, Filling)
    assert (event.step.blank, event.step.count, event.step.show().text) == (0, 2, "a f b [MASK] c")
    fill.gate.release(1_000)
    seen = [event for event in reply if isinstance(event, Filling)]
    assert [event.step.blank for event in seen] == sorted(event.step.blank for event in seen)


def test_a_filling_waits_behind_a_conversation_and_tells_its_place(make: Callable[..., Engine], fill: FakeFill) -> None:
    fill.gate = threading.Semaphore(0)
    engine = make()
    first = started(engine.fill("a [MASK]", OPTIONS))
    talk = engine.submit([{"role": "user", "content": "hi"}], SamplingOptions())
    last = engine.fill("b [MASK]", OPTIONS)
    assert next(talk) == Queued(1)
    assert next(last) == Queued(2)
    fill.gate.release(1_000)
    assert result_of(list(first)).texts[0].text == "a filling 1"
    assert isinstance(list(talk)[-1], Finished)
    assert result_of(list(last)).texts[0].text == "b filling 1"


def test_a_full_queue_takes_no_filling(make: Callable[..., Engine], fill: FakeFill) -> None:
    fill.gate = threading.Semaphore(0)
    engine = make(queue_size=1)
    started(engine.fill("a", OPTIONS))
    engine.fill("b", OPTIONS)
    with pytest.raises(QueueFull, match="1 answers are waiting"):
        engine.fill("c", OPTIONS)


def test_a_closed_engine_takes_none_either(make: Callable[..., Engine]) -> None:
    engine = make()
    engine.close()
    with pytest.raises(EngineClosed):
        engine.fill("a", OPTIONS)


def test_stop_leaves_what_there_is(make: Callable[..., Engine], fill: FakeFill) -> None:
    fill.gate = threading.Semaphore(0)
    reply = started(make().fill("a [MASK] b [MASK] c", OPTIONS))
    fill.gate.release(3)
    assert isinstance(next(reply), Filling)
    reply.cancel()
    fill.gate.release(1_000)
    events = list(reply)
    assert result_of(events).texts[0].text.startswith("a fil")
    assert result_of(events).texts[0].text.endswith(" b [MASK] c")
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "cancelled"
    assert fill.steps <= 4


@pytest.mark.parametrize(
    ("text", "failed"),
    [
        ("", ("no_text", 0, 0)),
        ("x" * 3000, ("too_long", 3000, 2000)),
        ("[MASK]" * 100, ("too_many_blanks", 100, 64)),
        ("[sMASK]", ("unknown_mask", 0, 0)),
    ],
)
def test_bad_texts_are_told_by_kind(make: Callable[..., Engine], text: str, failed: tuple[str, int, int]) -> None:
    event = list(make().fill(text, OPTIONS))[-1]
    assert isinstance(event, Failed)
    assert (event.kind, event.tokens, event.limit) == failed


def test_a_failing_model_fails_one_text_only(make: Callable[..., Engine], fill: FakeFill) -> None:
    def fail(blank: int) -> str:
        raise RuntimeError("secret path")

    fill.answer = fail
    engine = make()
    event = list(engine.fill("a", OPTIONS))[-1]
    assert isinstance(event, Failed)
    assert (event.kind, "secret" in event.message) == ("error", False)
    fill.answer = str
    assert result_of(list(engine.fill("a [MASK]", OPTIONS))).texts[0].text == "a 1"


def test_no_more_than_the_model_was_trained_for(make: Callable[..., Engine], fill: FakeFill) -> None:
    list(make().fill("a", FillOptions(max_length=5000)))
    assert fill.seen_options[-1].max_length == 2048


@pytest.mark.parametrize("options", [FillOptions(temperature=0), FillOptions("beam_search", num_beams=2)])
def test_a_real_model_fills_as_fill_blanks_does(options: FillOptions) -> None:
    text = "你好 [MASK] world [MASK]."
    with Engine.from_options(Options(model=str(TINY), device="cpu")) as engine:
        result = result_of(list(engine.fill(text, options)))
    model, tokenizer = load(TINY, device="cpu")
    limit = min(options.max_length, model.config.max_sequence_length)
    wanted = fill_blanks(model, tokenizer, text, FillOptions(**{**vars(options), "max_length": limit}))
    assert [each.text for each in result.texts] == [each.text for each in wanted.texts]
    assert [blank.prompt_ids for blank in result.blanks] == [blank.prompt_ids for blank in wanted.blanks]
    for found, alone in zip(result.blanks, wanted.blanks, strict=True):
        assert [answer.token_ids for answer in found.answers] == [answer.token_ids for answer in alone.answers]
        # The engine computes <sop> apart from its context, which changes the last bits.
        assert [answer.score for answer in found.answers] == pytest.approx([answer.score for answer in alone.answers])
