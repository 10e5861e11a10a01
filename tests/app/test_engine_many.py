"""Many users of one engine at once: each is told what it would be told alone, whatever happens to the others."""

import asyncio
import itertools
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from app.serving import reply
from app.serving.conversation import Message
from app.serving.engine import Engine, EngineClosed, QueueFull
from app.serving.reply import Event, Failed, Filled, Finished, Queued, Reply
from glm_model.blank_filling import FillOptions, FillResult, fill_blanks
from glm_model.blank_filling.text import write_blanks
from glm_model.errors import GLMError
from glm_model.generation.alone import run
from glm_model.generation.batch import Batch
from glm_model.generation.row_passes import CachedRows
from glm_model.generation.row_sampling import RowSampler
from glm_model.loading import DEMO_MODEL
from glm_model.loading import load as load_folder
from glm_model.options import SamplingOptions
from tests.app.users import LIMIT, Numbers, Told, Turns, greedy, has_begun, position, question, read_all, sent, text_of
from tests.golden import test_glm130b
from tests.golden.data import CHAT, FP32, GOLDEN, PACKED, TUNED
from tests.golden.models import load as load_golden

pytestmark = pytest.mark.timeout(60)

MODELS: dict[str, Callable[[], Any]] = {
    "ChatGLM": lambda: load_golden(FP32),
    "INT8": lambda: load_golden(PACKED[0]),
    "INT4": lambda: load_golden(PACKED[1]),
    "prefix": lambda: load_golden(TUNED[1]),
    "GLM-130B": test_glm130b.load,
}


@cache
def demo() -> tuple[Any, Any]:
    return load_folder(DEMO_MODEL, device="cpu")


@cache
def tiny(name: str = "ChatGLM") -> tuple[Any, Any]:
    model = MODELS[name]()
    return model, Numbers(model)


@contextmanager
def engine(pair: tuple[Any, Any], turns: Turns | None = None, **settings: Any) -> Iterator[Engine]:
    with Engine(*pair, **{"cache_tokens": 100_000, "queue_size": 100, **settings}) as made:
        try:
            yield made
        finally:
            if turns is not None:
                turns.open()


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Turns:
    return Turns(monkeypatch)


def numbers(length: int, seed: int = 0) -> list[Message]:
    """A question of so many tokens that `Numbers` reads."""
    words = torch.randint(10, 60, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return question(" ".join(map(str, words)))


@cache
def alone(model: Any, text: str, sampling: SamplingOptions) -> Told:
    return Told.alone(model, Numbers(model), question(text), sampling)


def check(events: list[Event], pair: tuple[Any, Any], messages: list[Message], sampling: SamplingOptions) -> None:
    assert Told.of(events) == alone(pair[0], messages[0]["content"], sampling)


# --- the same answers


@pytest.mark.parametrize("name", MODELS)
def test_answers_of_many_are_those_of_one_alone(name: str) -> None:
    """Lengths, settings and owners are drawn at random; some questions are equal."""
    pair, draw = tiny(name), random.Random(3)
    settings: list[dict[str, Any]] = [
        {},
        {"seed": 5, "temperature": 1.5, "top_k": 0, "top_p": 1.0},
        {"prompt_lookup": 3},
    ]
    requests = [
        (numbers(draw.randint(1, 30), draw.randint(0, 12)), greedy(**{**draw.choice(settings), "max_length": length}))
        for length in draw.choices(range(40, 64), k=16)
    ]
    with engine(pair, most_rows=8) as many:
        events = read_all([many.submit(*request, owner=draw.choice("abc")) for request in requests])
        state = many.state
    for request, told in zip(requests, events, strict=True):
        check(told, pair, *request)
    ends = [told[-1] for told in events]
    assert (state.answered, state.failed) == (16, 0)
    assert (state.rows, state.waiting, state.reserved_tokens) == (0, 0, 0)
    assert state.prompt_tokens == sum(end.prompt_tokens for end in ends if isinstance(end, Finished))
    assert state.answer_tokens == sum(end.answer_tokens for end in ends if isinstance(end, Finished))


def test_the_times_of_answers_follow_each_other() -> None:
    with engine(demo(), most_rows=2) as many:
        events = read_all([many.submit(question("Who are you?"), greedy()) for _ in range(4)])
    ends = [told[-1] for told in events if isinstance(told[-1], Finished)]
    assert len(ends) == 4
    for end in ends:
        assert 0 <= end.timing.waited < end.timing.first_token
        rate = end.timing.tokens_per_second(end.answer_tokens)
        assert rate == pytest.approx((end.answer_tokens - 1) / end.timing.writing)
    # The last two waited for the first two.
    assert min(end.timing.waited for end in ends[2:]) > max(end.timing.first_token for end in ends[:2])


def as_messages(asked: str, answered: str) -> list[Message]:
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


def test_golden_chats_through_the_engine() -> None:
    """What the original answered, asked by everybody at once."""
    cases = json.loads((GOLDEN / CHAT / "expected.json").read_text(encoding="utf-8"))["chat"]
    # The published code reads control tokens in what a user types; a front-end never does.
    cases = [case for case in cases if "output_ids" in case and "MASK]" not in case["query"]]
    assert len(cases) == 37
    conversations = [
        [*(message for round in case["history"] for message in as_messages(*round)), *question(case["query"])]
        for case in cases
    ]
    with engine(load_folder(GOLDEN / CHAT, device="cpu"), most_rows=16) as many:
        events = read_all([many.submit(messages, greedy(max_length=512)) for messages in conversations])
    for case, told in zip(cases, events, strict=True):
        assert told[-1] == Finished("stop", len(case["input_ids"]), len(case["output_ids"]) - 1)
        # `chat` cleans up spaces, the engine does not.
        assert "".join(text_of(told).split()) == "".join(case["response"].split())


FILLS = [FillOptions(max_length=20, temperature=0), FillOptions("beam_search", max_length=20, num_beams=3)]
SEEDED = FillOptions(max_length=20, temperature=1.5, top_k=0, seed=4)


@pytest.mark.parametrize("name", ["ChatGLM", "INT4", "prefix", "GLM-130B"])
def test_blanks_are_filled_beside_chats(name: str) -> None:
    pair = tiny(name)
    text = "17 [MASK] 19 20 [MASK] 21"
    with engine(pair) as many:
        chats = [many.submit(numbers(9 + seed, seed), greedy()) for seed in range(3)]
        fills = [many.fill(text, options) for options in (*FILLS, SEEDED)]
        events = read_all([*chats, *fills])
    for seed in range(3):
        check(events[seed], pair, numbers(9 + seed, seed), greedy())
    for options, told in zip(FILLS, events[3:5], strict=True):
        same_fill(filled(told), fill_blanks(*pair, text, options))
    steps = run(pair[0], write_blanks(*pair, text, SEEDED))
    same_fill(filled(events[5]), [step for step in steps if step.result is not None][-1].result)


def filled(events: list[Event]) -> FillResult:
    (result,) = [event.result for event in events if isinstance(event, Filled)]
    return result


def same_fill(found: FillResult, wanted: FillResult | None) -> None:
    assert wanted is not None
    assert [text.text for text in found.texts] == [text.text for text in wanted.texts]
    for blank, other in zip(found.blanks, wanted.blanks, strict=True):
        assert [answer.token_ids for answer in blank.answers] == [answer.token_ids for answer in other.answers]


def count_prompts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the rows whose prompts are computed."""
    begun: list[int] = []
    begin = CachedRows.begin

    def counting(self: CachedRows, row: int, *arguments: Any) -> None:
        begun.append(row)
        begin(self, row, *arguments)

    monkeypatch.setattr(CachedRows, "begin", counting)
    return begun


def test_equal_prompts_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several answers to one question at the same time, and a retry when all have ended."""
    begun = count_prompts(monkeypatch)
    settings = [greedy(seed=seed, temperature=1.5, top_k=0, top_p=1.0) for seed in range(4)]
    with engine(tiny()) as many:
        first = read_all([many.submit(numbers(20), sampling) for sampling in settings])
        assert len(begun) == 1
        (retry,) = read_all([many.submit(numbers(20), settings[2])])
        assert len(begun) == 1
        read_all([many.submit(numbers(20, 1), greedy())])
        assert len(begun) == 2
    assert text_of(retry) == text_of(first[2])
    for sampling, told in zip(settings, first, strict=True):
        check(told, tiny(), numbers(20), sampling)


# --- who comes when


def test_nobody_holds_more_than_half_while_others_wait(turns: Turns) -> None:
    with engine(tiny(), turns, most_rows=4) as many:
        first = many.submit(numbers(5), greedy(max_length=16), owner="first")
        turns.start()
        greedy_owner = [many.submit(numbers(5, seed), greedy(), owner="a") for seed in range(4)]
        others = [many.submit(numbers(5, seed), greedy(), owner=owner) for seed, owner in enumerate("bc")]
        turns.take(1, many)
        seen = [sent(reply) for reply in (*greedy_owner, *others)]
        assert [has_begun(events) for events in seen] == [True, True, False, False, True, False]
        assert [position(events) for events in seen[2:4] + seen[5:]] == [1, 2, 3]
        first.cancel()
        turns.take(2, many)
        assert has_begun(sent(others[1]))  # not "a", who came before and holds half
        turns.open()
        read_all([first, *greedy_owner, *others])


def test_an_owner_alone_gets_all_rows(turns: Turns) -> None:
    with engine(tiny(), turns, most_rows=4) as many:
        replies = [many.submit(numbers(5, seed), greedy(), owner="a") for seed in range(6)]
        turns.start()
        turns.take(1, many)
        assert many.state.rows == 4
        turns.open()
        read_all(replies)


def test_who_may_not_begin_yet_does_not_hold_up_others(turns: Turns) -> None:
    """The search of an owner with half of the rows finds no room, but it is not its turn anyway."""
    with engine(tiny(), turns, most_rows=4) as many:
        replies = [many.submit(numbers(5, seed), greedy(), owner="a") for seed in range(2)]
        turns.start()
        replies.append(many.fill("17 [MASK]", FillOptions("beam_search", max_length=40, num_beams=3), owner="a"))
        replies.append(many.submit(numbers(5, 3), greedy(), owner="b"))
        turns.take(1, many)
        assert has_begun(sent(replies[3]))
        turns.open()
        read_all(replies)


def test_order_of_arrival_and_memory_for_the_longest(turns: Turns) -> None:
    """What is reserved stays within the cache, and one that needs more room is not overtaken."""
    with engine(tiny(), turns, most_rows=8, cache_tokens=200) as many:
        lengths = [90, 60, 100, 40, 250, 40, 40]  # the third does not fit beside the first two, the fifth only alone
        replies = [many.submit(numbers(4, 0), greedy(max_length=length)) for length in lengths[:1]]
        turns.start()
        replies += [many.submit(numbers(4, seed), greedy(max_length=n)) for seed, n in enumerate(lengths) if seed]
        begun: list[int] = []
        seen = [list[Event]() for _ in lengths]
        while many.state.rows or many.state.waiting:
            turns.take(1, many)
            state = many.state
            assert state.reserved_tokens <= 200 or (state.reserved_tokens, state.rows) == (250, 1)
            for place, reply in enumerate(replies):
                seen[place] += sent(reply)
                if has_begun(seen[place]) and place not in begun:
                    begun.append(place)
        assert begun == list(range(7))
        assert all(isinstance(events[-1], Finished) for events in seen)
        turns.open()


def test_a_prefix_takes_memory_too(turns: Turns) -> None:
    pair = tiny("prefix")
    length = pair[0].config.pre_seq_len
    with engine(pair, turns, cache_tokens=2 * 60 + length) as many:
        replies = [many.submit(numbers(5, seed), greedy(max_length=60)) for seed in range(2)]
        turns.start()
        turns.take(1, many)
        assert (many.state.rows, many.state.reserved_tokens) == (1, 60 + length)
        turns.open()
        read_all(replies)


def test_a_queue_is_full_when_so_many_really_wait(turns: Turns) -> None:
    """Those for whom there are rows do not wait, even if the worker is busy with a step."""
    with engine(tiny(), turns, most_rows=6, queue_size=2) as many:
        replies = [many.submit(numbers(5), greedy())]
        turns.start()
        replies += [many.submit(numbers(5, seed), greedy()) for seed in range(1, 8)]
        with pytest.raises(QueueFull):
            many.submit(numbers(5), greedy())
        turns.open()
        read_all(replies)


def test_everyone_who_waits_is_told_the_place(turns: Turns) -> None:
    with engine(tiny(), turns, most_rows=2) as many:
        running = [many.submit(numbers(5, 0), greedy()), many.submit(numbers(6, 1), greedy())]
        turns.start()
        turns.take(1, many)
        waiting = [many.submit(numbers(5, seed), greedy()) for seed in range(2, 6)]
        assert [sent(reply) for reply in waiting] == [[Queued(1)], [Queued(2)], [Queued(3)], [Queued(4)]]
        waiting[1].cancel()
        assert [position(sent(reply)) for reply in waiting] == [None, None, 2, 3]
        running[0].cancel()
        turns.take(2, many)
        assert [position(sent(reply)) for reply in waiting[2:]] == [1, 2]
        turns.open()
        read_all([running[1], waiting[0], *waiting[2:]])


# --- who goes when


@pytest.mark.parametrize("state", ["waiting", "prompt", "decoding"])
def test_a_stopped_request_frees_its_row_and_disturbs_nobody(
    state: str, turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = tiny()
    monkeypatch.setattr("glm_model.generation.batch.PROMPT_SHARE", 0.0)  # one layer in each turn
    with engine(pair, turns, most_rows=4) as many:
        others = [many.submit(numbers(8 + seed, seed), greedy()) for seed in range(3)]
        turns.start()
        turns.take(16, many)
        if state == "waiting":
            others.append(many.submit(numbers(11, 3), greedy()))
            turns.take(1, many)
        stopped = many.submit(numbers(30, 9), greedy())
        turns.take({"waiting": 1, "prompt": 2, "decoding": 9}[state], many)
        rows = many.state.rows
        assert rows == 4
        stopped.cancel()
        turns.take(2, many)
        events = sent(stopped)
        end = events[-1]
        assert isinstance(end, Finished)
        assert end.reason == "cancelled"
        assert (end.answer_tokens > 0) == (state == "decoding")
        assert many.state.rows == 3 + (state == "waiting")
        turns.open()
        for seed, told in enumerate(read_all(others)):
            check(told, pair, numbers(8 + seed, seed), greedy())
        total = many.state
        assert (total.answered, total.failed) == (len(others) + 1, 0)
    wanted = Told.alone(*pair, numbers(30, 9), greedy()).text
    assert wanted.startswith(text_of(events))


def test_a_text_is_stopped_in_the_prompt_of_a_later_blank(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blank that was filled is still told."""
    pair = tiny()
    monkeypatch.setattr("glm_model.generation.batch.PROMPT_SHARE", 0.0)
    with engine(pair, turns) as many:
        fill = many.fill("17 [MASK] 19 20 [MASK] 21", FillOptions(max_length=40, temperature=0))
        turns.start()
        begun = count_prompts(monkeypatch)
        while len(begun) < 2:
            turns.take(1, many)
        fill.cancel()
        turns.take(2, many)
        assert many.state.rows == 0
        events = sent(fill)
        turns.open()
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "cancelled"
    wanted = fill_blanks(*pair, "17 [MASK] 19 20 [MASK] 21", FillOptions(max_length=40, temperature=0))
    assert filled(events).blanks[0].answers == wanted.blanks[0].answers
    assert len(filled(events).blanks) == 1
    assert filled(events).texts[0].text.endswith("19 20 [MASK] 21")


# --- what breaks


def broken_at(call: int, method: Callable[..., Any], error: BaseException) -> Callable[..., Any]:
    """The method, which raises an error in its nth call."""
    calls = itertools.count(1)

    def breaking(*arguments: Any, **others: Any) -> Any:
        if next(calls) == call:
            raise error
        return method(*arguments, **others)

    return breaking


class Four:
    """Four users of an engine who have got some text when something breaks, and a fifth who comes then."""

    def __init__(self, many: Engine, turns: Turns) -> None:
        self.many, self.turns = many, turns
        self.replies = [many.submit(numbers(8 + seed, seed), greedy()) for seed in range(4)]
        turns.start()
        turns.take(9, many)

    def add(self) -> Reply:
        seed = len(self.replies)
        self.replies.append(self.many.submit(numbers(8 + seed, seed), greedy()))
        return self.replies[-1]

    def check(self, broken: set[int], kind: str = "error") -> None:
        """All end in time, exactly these broken, and the same questions are answered afterwards."""
        self.turns.open()
        for seed, told in enumerate(read_all(self.replies, LIMIT)):
            end = told[-1]
            assert isinstance(end, Failed) == (seed in broken), (seed, end)
            if isinstance(end, Failed):
                assert end.kind == kind
            else:
                check(told, tiny(), numbers(8 + seed, seed), greedy())
        count = len(self.replies)
        state = self.many.state
        assert (state.answered, state.failed) == (count - len(broken), len(broken))
        assert self.many.is_alive
        again = [self.many.submit(numbers(8 + seed, seed), greedy()) for seed in broken]
        for seed, told in zip(broken, read_all(again, 10), strict=True):
            check(told, tiny(), numbers(8 + seed, seed), greedy())
        assert (self.many.state.rows, self.many.state.reserved_tokens) == (0, 0)


@pytest.fixture
def four(turns: Turns) -> Iterator[Four]:
    with engine(tiny(), turns, most_rows=8) as many:
        yield Four(many, turns)


ERRORS = [(RuntimeError("broken"), "error"), (MemoryError(), "memory")]


@pytest.mark.parametrize(("error", "kind"), ERRORS)
@pytest.mark.parametrize("method", ["begin", "advance"])
def test_a_broken_prompt(four: Four, method: str, error: Exception, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CachedRows, method, broken_at(1, getattr(CachedRows, method), error))
    four.add()
    four.add()
    four.check({4}, kind)


def test_a_broken_copy_of_a_prompt(four: Four, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second answer to the question that somebody is being answered."""
    monkeypatch.setattr(CachedRows, "copy", broken_at(1, CachedRows.copy, MemoryError()))
    copy = four.many.submit(numbers(8), greedy())
    four.turns.take(2, four.many)
    (end,) = [event for event in sent(copy) if isinstance(event, Finished | Failed)]
    assert isinstance(end, Failed)
    assert end.kind == "memory"
    four.turns.open()
    for seed, told in enumerate(read_all(four.replies, LIMIT)):
        check(told, tiny(), numbers(8 + seed, seed), greedy())


@pytest.mark.parametrize(("error", "kind"), ERRORS)
@pytest.mark.parametrize("layer", [0, 1])
def test_a_broken_step(four: Four, layer: int, error: Exception, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of the layers, some of which have the keys and values of the new tokens then."""
    mlp = four.many._model.model.layers[layer].mlp
    monkeypatch.setattr(mlp, "forward", broken_at(1, mlp.forward, error))
    four.turns.take(1, four.many)
    four.add()
    four.check({0, 1, 2, 3}, kind)


def test_the_sampling_of_one_row_breaks(four: Four, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its neighbours go on with the random numbers that they would have had."""
    sampling = greedy(seed=3, temperature=1.5, top_k=0, top_p=1.0)
    good = four.many.submit(numbers(20, 20), sampling)
    bad = four.many.submit(numbers(20, 21), replace(sampling, temperature=1.25))
    four.turns.take(9, four.many)
    draw = RowSampler.draw

    def breaking(self: RowSampler) -> float:
        if self.temperature == 1.25:
            raise RuntimeError("broken")
        return draw(self)

    monkeypatch.setattr(RowSampler, "draw", breaking)
    four.turns.open()
    told, failed = read_all([good, bad], LIMIT)
    assert isinstance(failed[-1], Failed)
    check(told, tiny(), numbers(20, 20), sampling)
    for seed, told in enumerate(read_all(four.replies, LIMIT)):
        check(told, tiny(), numbers(8 + seed, seed), greedy())


def test_the_text_of_one_row_breaks(four: Four) -> None:
    four.add()

    class Broken(Numbers):
        def surface(self, token_id: int) -> str:
            raise UnicodeError("no such token")

    four.many._waiting[-1]._tokenizer = Broken(tiny()[0])  # type: ignore[attr-defined]
    four.check({4})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_scores_of_one_row_are_no_numbers(four: Four, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    step, calls = CachedRows.step, itertools.count()

    def breaking(self: CachedRows, *arguments: Any) -> torch.Tensor:
        logits = step(self, *arguments)
        if not next(calls):
            logits = logits.clone()
            logits[2, 0, 17] = value
        return logits

    monkeypatch.setattr(CachedRows, "step", breaking)
    four.turns.take(1, four.many)
    four.check({2})


@pytest.mark.parametrize("error", [SystemExit(), KeyboardInterrupt()])
@pytest.mark.parametrize("place", ["turn", "writer", "delivery", "end"])
def test_a_worker_that_dies(four: Four, place: str, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody is told, also who waits, and nobody can ask any more."""
    four.many._most_rows = 4
    waiting = [four.add() for _ in range(3)]
    owner, method = {
        "turn": (Batch, "_step"),
        "writer": (CachedRows, "step"),
        "delivery": (Engine, "_deliver"),
        "end": (Engine, "_keep_contexts"),
    }[place]
    monkeypatch.setattr(owner, method, broken_at(1, getattr(owner, method), error))
    four.turns.open()
    events = read_all(four.replies, LIMIT)
    lost = [told[-1] for told in events if isinstance(told[-1], Failed)]
    assert len(lost) >= len(waiting)
    assert {end.kind for end in lost} == {"closed"}
    assert place == "end" or len(lost) == len(four.replies)
    four.many._worker.join(LIMIT)
    assert not four.many.is_alive
    with pytest.raises(EngineClosed):
        four.many.submit(numbers(5), greedy())
    with pytest.raises(EngineClosed):
        four.many.fill("17 [MASK]", FillOptions())
    state = four.many.state
    assert (state.rows, state.waiting, state.answered + state.failed) == (0, 0, len(four.replies))


def test_a_reader_whose_loop_ends_at_the_wrong_moment(four: Four) -> None:
    """asyncio refuses to wake a loop that was closed after the engine had looked."""
    loop = asyncio.new_event_loop()

    async def waker() -> Callable[[], None]:
        return reply._future_and_waker()[1]

    four.replies[1]._wake = loop.run_until_complete(waker())
    loop.close()
    loop.is_closed = lambda: False  # type: ignore[method-assign]
    four.check(set())
    del loop.is_closed


def test_an_answer_that_cannot_be_cleaned_up_ends_alone(four: Four) -> None:
    class Stubborn:
        def send(self, _: object) -> Any:
            return type("Chunk", (), {"text": "x", "token_count": 1, "finish_reason": "stop"})

        def close(self) -> None:
            raise GLMError("cannot close")

    four.many._write_text = lambda *_: Stubborn()  # type: ignore[assignment]
    reply = four.many.submit(numbers(5), greedy())
    four.turns.take(2, four.many)
    assert any(isinstance(event, Finished | Failed) for event in sent(reply))
    four.turns.open()
    for seed, told in enumerate(read_all(four.replies, LIMIT)):
        check(told, tiny(), numbers(8 + seed, seed), greedy())
