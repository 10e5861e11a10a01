"""The engine with a fake model: order, positions, stopping, trimming, failures and a clean end."""

import asyncio
import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from app.serving.conversation import ConversationError, Message
from app.serving.engine import Engine, EngineClosed, QueueFull
from app.serving.jobs import LEAST_ANSWER, answer_room
from app.serving.reply import SECONDS_BETWEEN_TEXTS, Event, Failed, Finished, Queued, Reply, Text, Trimmed
from glm_model import SamplingOptions
from glm_model.errors import GLMError
from tests.app.fakes import SEPARATOR, FakeModel, FakeStream, FakeTokenizer, fake_engine

pytestmark = pytest.mark.timeout(30)


def ask(question: str = "hi") -> list[Message]:
    return [{"role": "user", "content": question}]


def text_of(events: list[Event]) -> str:
    return "".join(event.delta for event in events if isinstance(event, Text))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


class Held:
    """An engine whose model makes a token only when the test allows it."""

    def __init__(self, **settings: Any) -> None:
        self.gate = threading.Semaphore(0)
        self.stream = FakeStream(gate=self.gate)
        self.engine = Engine(FakeModel(), FakeTokenizer(), write_text=self.stream, **settings)

    def allow(self, tokens: int = 10_000) -> None:
        self.gate.release(tokens)

    def start(self) -> Reply:
        """A reply that is running, held before its first token."""
        reply = self.engine.submit(ask("first"), SamplingOptions())
        assert next(reply) == Text("")
        return reply


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held()
    yield held
    held.allow()
    held.engine.close()


@pytest.fixture
def engine() -> Iterator[Engine]:
    with fake_engine() as engine:
        yield engine


# --- the plain case


def test_an_answer_comes_whole_and_counted(engine: Engine) -> None:
    events = list(engine.submit(ask("hello"), SamplingOptions()))
    assert isinstance(events[0], Text)
    assert text_of(events) == "You said: hello"
    assert events[-1] == Finished("stop", prompt_tokens=5, answer_tokens=16)
    assert not any(isinstance(event, Queued | Trimmed | Failed) for event in events)


def test_a_reply_that_has_ended_stays_ended(engine: Engine) -> None:
    reply = engine.submit(ask(), SamplingOptions())
    assert isinstance(list(reply)[-1], Finished)
    reply.cancel()
    assert list(reply) == []


def test_the_maximum_length_is_told(engine: Engine) -> None:
    assert list(engine.submit(ask("1234"), SamplingOptions(max_length=64)))[-1] == Finished("stop", 4, 15)
    long = "x" * 40
    assert list(engine.submit(ask(long), SamplingOptions(max_length=64)))[-1] == Finished("length", 40, 24)


def test_the_settings_of_each_request_reach_the_model(held: Held) -> None:
    held.allow()
    for sampling in (SamplingOptions(temperature=0), SamplingOptions(seed=3, top_p=0.1)):
        list(held.engine.submit(ask(), sampling))
        assert held.stream.seen_options[-1] is sampling


def test_what_is_known_of_the_model() -> None:
    with fake_engine(is_demo=False) as engine:
        info = engine.model_info
    assert (info.name, info.is_demo, info.device, info.parameters) == ("fake-glm", False, "cpu", 1234)
    assert (info.quantization, info.context_length) == (None, 2048)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "assistant", "content": "hi"}],
        [{"role": "user"}],
        "hi",
        [{"role": "user", "content": 3}],
    ],
)
def test_what_is_no_conversation_is_refused_at_once(engine: Engine, messages: Any) -> None:
    with pytest.raises(ConversationError):
        engine.submit(messages, SamplingOptions())


# --- the queue


def test_everyone_waiting_sees_the_queue_move(held: Held) -> None:
    first = held.start()
    second, third, fourth = (held.engine.submit(ask(name), SamplingOptions()) for name in ("2", "3", "4"))
    assert [next(reply) for reply in (second, third, fourth)] == [Queued(1), Queued(2), Queued(3)]
    third.cancel()
    assert list(third) == [Finished("cancelled", 0, 0)]
    assert next(fourth) == Queued(2)
    held.allow()
    list(first)
    events = list(second)
    assert text_of(events) == "You said: 2"
    assert next(fourth) == Queued(1)


def test_answers_come_in_order_and_stay_apart() -> None:
    with fake_engine() as engine:
        replies = [engine.submit(ask(f"visitor {i}"), SamplingOptions()) for i in range(20)]
        assert [text_of(list(reply)) for reply in replies] == [f"You said: visitor {i}" for i in range(20)]


def test_many_visitors_at_once_never_mix() -> None:
    """Each visitor's prompt holds that visitor's own messages and nothing else."""
    stream = FakeStream()
    engine = Engine(FakeModel(), FakeTokenizer(), write_text=stream)
    wrong: list[str] = []

    def visit(name: str) -> None:
        history: list[Message] = []
        for turn in range(10):
            history.append({"role": "user", "content": f"{name}{turn}"})
            answer = text_of(list(engine.submit(history, SamplingOptions())))
            if answer != f"You said: {name}{turn}":
                wrong.append(answer)
            history.append({"role": "assistant", "content": answer})

    visitors = [threading.Thread(target=visit, args=(name,)) for name in "abcdefgh"]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    engine.close()
    assert not wrong
    own = [{part.removeprefix("You said: ")[0] for part in prompt.split(SEPARATOR)} for prompt in stream.prompts]
    assert len(own) == 80
    assert all(len(names) == 1 for names in own)


def test_a_full_queue_says_so_and_recovers() -> None:
    held = Held(queue_size=2)
    first = held.start()
    waiting = [held.engine.submit(ask(), SamplingOptions()) for _ in range(2)]
    with pytest.raises(QueueFull, match="2 answers are waiting"):
        held.engine.submit(ask(), SamplingOptions())
    waiting[0].cancel()
    again = held.engine.submit(ask("again"), SamplingOptions())
    held.allow()
    assert all(isinstance(list(reply)[-1], Finished) for reply in (first, waiting[1]))
    assert text_of(list(again)) == "You said: again"
    held.engine.close()


def test_a_queue_needs_room() -> None:
    with pytest.raises(ValueError, match="queue_size"):
        fake_engine(queue_size=0)


def test_later_changes_of_the_callers_list_do_not_matter(held: Held) -> None:
    held.start()
    messages = ask("mine")
    reply = held.engine.submit(messages, SamplingOptions())
    messages[0]["content"] = "changed"
    held.allow()
    assert text_of(list(reply)) == "You said: mine"


# --- stopping


def test_a_running_answer_stops_within_a_token(held: Held) -> None:
    reply = held.start()
    held.allow(3)
    wait_until(lambda: held.stream.steps == 3)
    reply.cancel()
    held.allow()
    events = list(reply)
    assert events[-1].reason == "cancelled"  # type: ignore[union-attr]
    assert held.stream.steps <= 4
    assert text_of(events) == "You said: first"[: held.stream.steps]


def test_a_stream_that_never_looks_at_the_stop_is_stopped_too() -> None:
    closed = []

    def deaf(*_: Any) -> Generator[Any, Any, None]:
        try:
            for count in range(1, 1_000_000):
                yield type("Chunk", (), {"text": "x", "token_count": count, "finish_reason": None})
        finally:
            closed.append(True)

    with Engine(FakeModel(), FakeTokenizer(), write_text=deaf) as engine:
        reply = engine.submit(ask(), SamplingOptions())
        next(reply), next(reply)
        reply.cancel()
        assert list(reply)[-1].reason == "cancelled"  # type: ignore[union-attr]
    assert closed == [True]


def test_leaving_the_block_cancels(held: Held) -> None:
    with held.start() as reply:
        pass
    held.allow()
    assert isinstance(list(reply)[-1], Finished)
    assert held.stream.steps <= 1


def test_a_finished_block_cancels_nothing(engine: Engine) -> None:
    with engine.submit(ask(), SamplingOptions()) as reply:
        assert list(reply)[-1].reason == "stop"  # type: ignore[union-attr]


def test_cancelling_twice_or_before_the_start_is_fine(held: Held) -> None:
    held.start()
    reply = held.engine.submit(ask(), SamplingOptions())
    reply.cancel()
    reply.cancel()
    assert list(reply)[-1] == Finished("cancelled", 0, 0)


# --- failures


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (RuntimeError("/secret/path exploded"), "error", "failed while answering"),
        (MemoryError(), "memory", "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "memory", "out of memory"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory."), "memory", "out of memory"),
        (GLMError("the model cannot do this"), "error", "the model cannot do this"),
    ],
)  # fmt: skip
def test_a_failure_is_a_sentence_and_the_next_answer_works(
    error: Exception, kind: str, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(question: str) -> str:
        if question == "break":
            raise error
        return "fine"

    with fake_engine(answer) as engine, caplog.at_level(logging.WARNING):
        last = list(engine.submit(ask("break"), SamplingOptions()))[-1]
        assert isinstance(last, Failed)
        assert last.kind == kind
        assert says in last.message
        assert "secret" not in last.message
        assert "Traceback" not in last.message
        assert str(error) in caplog.text
        assert text_of(list(engine.submit(ask(), SamplingOptions()))) == "fine"


# --- trimming


def rounds(count: int, each: int) -> list[Message]:
    """`count` full rounds of 2 * `each` characters and a question "end"."""
    talk: list[Message] = []
    for number in range(count):
        talk.append({"role": "user", "content": str(number % 10) * each})
        talk.append({"role": "assistant", "content": "a" * each})
    return [*talk, {"role": "user", "content": "end"}]


@pytest.mark.parametrize(("max_length", "room"), [(2048, 512), (4096, 512), (1024, 256), (100, 25), (4, 1)])
def test_the_room_for_the_answer(max_length: int, room: int) -> None:
    assert answer_room(max_length) == room


def test_old_rounds_go_with_a_notice() -> None:
    stream = FakeStream()
    with Engine(FakeModel(), FakeTokenizer(), write_text=stream) as engine:
        # A round costs 22 with its separators, the question 3: 75 - 3 = 72 leaves room for 3 rounds.
        events = list(engine.submit(rounds(10, 10), SamplingOptions(max_length=100)))
    assert [event for event in events if isinstance(event, Trimmed)] == [Trimmed(7)]
    assert stream.prompts[0].split(SEPARATOR)[0] == "7" * 10
    assert events[-1].prompt_tokens == 3 * 22 + 3  # type: ignore[union-attr]
    assert text_of(events) == "You said: end"


def test_a_long_message_may_use_the_room_kept_for_the_answer() -> None:
    with fake_engine() as engine:
        longest = 100 - LEAST_ANSWER
        events = list(engine.submit(ask("x" * longest), SamplingOptions(max_length=100)))
        assert events[-1] == Finished("length", longest, LEAST_ANSWER)
        assert len(text_of(events)) == LEAST_ANSWER


def test_no_answer_goes_beyond_what_the_model_was_trained_for() -> None:
    stream = FakeStream(lambda _: "y" * 1000)
    with Engine(FakeModel(context_length=64), FakeTokenizer(), write_text=stream) as engine:
        events = list(engine.submit(ask("x" * 40), SamplingOptions(max_length=2048, seed=5)))
        assert events[-1] == Finished("length", 40, 24)
        assert stream.seen_options[-1] == SamplingOptions(max_length=64, seed=5)
        assert list(engine.submit(ask("x" * 60), SamplingOptions()))[-1].kind == "too_long"  # type: ignore[union-attr]


@pytest.mark.parametrize("history", [0, 5])
def test_a_message_too_long_even_alone_is_refused_with_counts_and_remedy(history: int) -> None:
    with fake_engine() as engine:
        messages = [*rounds(history, 10)[:-1], *ask("x" * 85)]
        events = list(engine.submit(messages, SamplingOptions(max_length=100)))
    assert isinstance(events[-1], Failed)
    assert events[-1].kind == "too_long"
    for part in ("85 tokens", "at most 84", "Shorten it or raise the maximum length"):
        assert part in events[-1].message
    assert not any(isinstance(event, Trimmed) for event in events)


def test_trimming_is_not_quadratic() -> None:
    tokenizer = FakeTokenizer()
    with Engine(FakeModel(), tokenizer, write_text=FakeStream()) as engine:
        talk = rounds(20_000, 10)
        list(engine.submit(talk, SamplingOptions(max_length=2048)))
        assert tokenizer.tokens_made < 3 * 22 * 20_000
        tokenizer.tokens_made = tokenizer.calls = 0
        list(engine.submit(rounds(50, 10), SamplingOptions(max_length=2048)))
        assert tokenizer.calls == 1


# --- the end


def test_closing_ends_everyone_and_the_thread() -> None:
    held = Held()
    running, waiting = held.start(), held.engine.submit(ask(), SamplingOptions())
    worker = held.engine._worker
    closing = threading.Thread(target=held.engine.close)
    closing.start()
    wait_until(lambda: held.engine._closed)
    held.allow()
    closing.join(10)
    assert not worker.is_alive()
    assert list(running)[-1].reason == "cancelled"  # type: ignore[union-attr]
    assert list(waiting)[-1] == Failed("The program is shutting down.", "closed")
    with pytest.raises(EngineClosed):
        held.engine.submit(ask(), SamplingOptions())
    held.engine.close()


def test_ended_replies_are_not_kept(engine: Engine) -> None:
    reply = engine.submit(ask(), SamplingOptions())
    list(reply)
    forgotten = weakref.ref(reply)
    del reply
    list(engine.submit(ask(), SamplingOptions()))  # the worker lets go of the first when it takes the second
    gc.collect()
    assert forgotten() is None


# --- the hand-over


def test_a_slow_reader_gets_the_pieces_joined() -> None:
    with fake_engine(lambda _: "x" * 1000) as engine:
        reply = engine.submit(ask(), SamplingOptions())
        wait_until(lambda: not engine._running and not engine._waiting)
        events = list(reply)
    assert [type(event) for event in events] == [Text, Finished]
    assert text_of(events) == "x" * 1000


@pytest.mark.parametrize("kind", ["thread", "loop"])
def test_a_fast_model_wakes_its_reader_now_and_then_only(kind: str) -> None:
    async def read(reply: Reply) -> list[Event]:
        return [event async for event in reply]

    with fake_engine(lambda _: "x" * 300, delay=0.001) as engine:
        start = time.monotonic()
        reply = engine.submit(ask(), SamplingOptions())
        events = list(reply) if kind == "thread" else asyncio.run(read(reply))
        took = time.monotonic() - start
    assert text_of(events) == "x" * 300
    assert len(events) <= took / SECONDS_BETWEEN_TEXTS + 3


def test_an_async_reader_gets_the_same() -> None:
    async def read(reply: Reply) -> list[Event]:
        return [event async for event in reply]

    async def visit(engine: Engine) -> list[list[Event]]:
        replies = [engine.submit(ask(f"visitor {i}"), SamplingOptions()) for i in range(10)]
        return await asyncio.gather(*(read(reply) for reply in replies))

    with fake_engine(delay=0.0005) as engine:
        everything = asyncio.run(visit(engine))
    assert [text_of(events) for events in everything] == [f"You said: visitor {i}" for i in range(10)]
    assert all(isinstance(events[-1], Finished) for events in everything)
    assert sum(isinstance(event, Queued) for event in everything[9]) >= 2


def test_an_async_reader_that_is_cancelled_can_cancel(held: Held) -> None:
    async def visit() -> Reply:
        reply = held.engine.submit(ask(), SamplingOptions())

        async def read() -> None:
            with reply:
                async for _ in reply:
                    pass

        task = asyncio.create_task(read())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return reply

    reply = asyncio.run(visit())
    held.allow()
    assert list(reply)[-1].reason == "cancelled"  # type: ignore[union-attr]
    assert held.stream.steps <= 1


def test_async_reading_does_not_block_the_loop(held: Held) -> None:
    async def visit() -> int:
        reply = held.engine.submit(ask("q"), SamplingOptions())
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            for _ in range(20):
                await asyncio.sleep(0.001)
                ticks += 1
            held.allow()

        ticking = asyncio.create_task(tick())
        events = [event async for event in reply]
        await ticking
        assert text_of(events) == "You said: q"
        return ticks

    assert asyncio.run(visit()) == 20


def test_the_end_is_not_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that lets text gather for an hour hears at once that no more comes."""
    monkeypatch.setattr("app.serving.reply.SECONDS_BETWEEN_TEXTS", 3600)
    reply = Reply(lambda _: None)
    reply.send(Text("a"))
    assert next(reply) == Text("a")
    threading.Timer(0.05, reply.send, [Finished("stop", 1, 1)]).start()
    assert list(reply) == [Finished("stop", 1, 1)]


def test_the_end_is_not_held_back_from_an_async_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.serving.reply.SECONDS_BETWEEN_TEXTS", 3600)
    reply = Reply(lambda _: None)

    async def read() -> list[Event]:
        reply.send(Text("a"))
        events = [await anext(reply)]
        threading.Timer(0.05, reply.send, [Finished("stop", 1, 1)]).start()
        return events + [event async for event in reply]

    assert asyncio.run(asyncio.wait_for(read(), timeout=60)) == [Text("a"), Finished("stop", 1, 1)]
