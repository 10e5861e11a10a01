"""The events of the tab that fills blanks, called as Gradio calls them, with a model made of plain Python."""

from __future__ import annotations

import asyncio
import html
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from unittest.mock import Mock

import pytest

from app.options import Options
from app.serving.engine import Engine
from app.web.chat import Visitors
from app.web.fill import MOST_BEAMS, Fill, fill_options, highlighted
from app.web.wording import BLANKS, DEMO_BLANKS, EN, ZH, Words
from glm_model.blank_filling import FilledText, FillOptions, Segment, fill_blanks
from glm_model.loading import load
from tests.app.fakes import FakeFill, FakeModel, FakeStream, FakeTokenizer, visitor

SETTINGS: tuple[Any, ...] = ("beams", 4, 1.0, 0, 3, 1.0, 0.7, 0, 256, "")


@pytest.fixture
def model() -> FakeFill:
    return FakeFill()


@pytest.fixture
def make(model: FakeFill) -> Iterator[Callable[..., Fill]]:
    engines: list[Engine] = []

    def make(*, is_demo: bool = True, visitors: Visitors | None = None, **settings: Any) -> Fill:
        options = Options(**settings)
        engine = Engine(
            FakeModel(is_demo=is_demo), FakeTokenizer(), queue_size=options.queue_size, write_text=FakeStream(),
            write_fill=model,
        )  # fmt: skip
        engines.append(engine)
        return Fill(engine, options, visitors or Visitors())

    yield make
    if model.gate is not None:
        model.gate.release(1_000_000)
    for engine in engines:
        engine.close()


class Screen:
    """The tab as the updates leave it; None for what is hidden."""

    def __init__(self) -> None:
        self.filled: str | None = None
        self.alternatives: str | None = None
        self.line = ""
        self.lines: list[str] = []
        self.texts: list[str] = []
        self.is_filling = False

    def take(self, update: tuple[Any, ...]) -> None:
        filled, alternatives, text, start, stop = update
        self.filled = shown(filled, self.filled)
        self.alternatives = shown(alternatives, self.alternatives)
        if self.filled is not None:
            self.texts.append(text_of(self.filled))
        if isinstance(text, str):
            self.line = html.unescape(re.sub(r"<[^>]*>", "", text))
            self.lines.append(self.line)
        if "visible" in start:
            assert start["visible"] != stop["visible"]
            self.is_filling = stop["visible"]


def shown(update: Any, before: str | None) -> str | None:
    if "visible" not in update:
        return before
    return update["value"] if update["visible"] else None


def text_of(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", markup))


def play(updates: AsyncIterator[tuple[Any, ...]]) -> Screen:
    screen = Screen()

    async def take() -> None:
        async for update in updates:
            screen.take(update)

    asyncio.run(take())
    return screen


def test_blanks_are_filled_and_marked(make: Callable[..., Fill]) -> None:
    screen = play(make().fill(visitor(), "a [MASK] b [MASK] c", *SETTINGS))
    assert screen.filled is not None
    assert text_of(screen.filled) == "a filling 1 b filling 2 c"
    assert re.findall(r'<mark data-blank="(\d)">(.*?)</mark>', screen.filled) == [
        ("1", "filling 1"),
        ("2", "filling 2"),
    ]
    assert (screen.line, screen.is_filling) == ("", False)
    assert any(line.startswith("Filling blank") for line in screen.lines)


def test_a_single_filling_has_no_number(make: Callable[..., Fill]) -> None:
    screen = play(make().fill(visitor(), "a [MASK]", *SETTINGS))
    assert screen.filled == '<div class="filled">a <mark>filling 1</mark></div>'


def test_an_order_of_several_kinds_keeps_the_numbers_of_the_alternatives(make: Callable[..., Fill]) -> None:
    """The numbers are those of filling, as in the list of alternatives, whatever their order in the text."""
    text = FilledText((Segment("x", True), Segment(" ", False), Segment("y", True)), "x y", None, (1, 0))
    assert highlighted(text, EN)["value"].count('data-blank="2">x') == 1


def test_alternatives_of_every_blank(make: Callable[..., Fill]) -> None:
    screen = play(make().fill(visitor(), "a [MASK] b [MASK]", *SETTINGS))
    assert screen.alternatives is not None
    items = re.findall(r'<span class="answer">(.*?)</span><span class="score">(.*?)</span>', screen.alternatives)
    of_one = [("filling 1", "-0.50"), ("filling 1 B", "-1.50"), ("filling 1 C", "-2.50"), ("filling 1 D", "-3.50")]
    assert items[:4] == of_one
    assert len(items) == 8
    assert [EN.blank.format(number=number) in screen.alternatives for number in (1, 2, 3)] == [True, True, False]


@pytest.mark.parametrize("strategy", ["sampling", "greedy"])
def test_a_single_answer_has_no_alternatives(make: Callable[..., Fill], strategy: str) -> None:
    assert play(make().fill(visitor(), "a [MASK]", strategy, *SETTINGS[1:])).alternatives is None


@pytest.mark.parametrize(("language", "words"), [("zh-CN", ZH), ("en", EN)])
def test_bad_texts_are_told_in_the_visitors_language(make: Callable[..., Fill], language: str, words: Words) -> None:
    for text, told in (
        ("", words.fill_no_text),
        ("[MASK]" * 100, words.fill_too_many.format(count=100, limit=64)),
        ("x" * 3000, words.fill_too_long + words.too_long_by.format(tokens=3000, limit=2000)),
        ("x" * 300_000, words.fill_too_long),
        ("a [sMASK]", words.fill_unknown_mask),
    ):
        screen = play(make().fill(visitor(language=language), text, *SETTINGS))
        assert screen.line == told
        assert (screen.filled, screen.alternatives, screen.is_filling) == (None, None, False)


def test_a_text_without_blanks_is_continued_with_a_notice(make: Callable[..., Fill]) -> None:
    screen = play(make().fill(visitor(), "once upon a time", *SETTINGS))
    assert screen.line == EN.fill_no_blank
    assert screen.texts[-1] == "once upon a timefilling 1"


def test_an_empty_filling_can_be_seen_and_not_copied(make: Callable[..., Fill], model: FakeFill) -> None:
    model.answer = lambda blank: ""
    screen = play(make().fill(visitor(), "a [MASK] b", *SETTINGS))
    assert screen.filled == f'<div class="filled">a <mark data-empty="{EN.fill_nothing}"></mark> b</div>'


def test_nothing_of_a_text_becomes_html(make: Callable[..., Fill], model: FakeFill) -> None:
    hostile = "<img src=x onerror=alert(1)> &lt; {{constructor}} ${alert(1)} \"'</mark>"
    model.answer = lambda blank: hostile
    screen = play(make().fill(visitor(), f"{hostile}[MASK]", *SETTINGS))
    for markup in (screen.filled, screen.alternatives):
        assert markup is not None
        assert set(re.findall(r"<(/?\w+)", markup)) <= {
            "div", "/div", "mark", "/mark", "h3", "/h3", "section", "/section", "ol", "/ol", "li", "/li", "span",
            "/span",
        }  # fmt: skip
        assert "{" not in markup
        assert "$" not in markup
    assert text_of(screen.filled or "") == hostile * 2


def test_a_full_queue_says_so(make: Callable[..., Fill], model: FakeFill) -> None:
    model.gate = threading.Semaphore(0)
    fill = make(queue_size=1)

    async def three() -> Screen:
        running, waiting = (fill.fill(visitor(name), "[MASK]", *SETTINGS) for name in ("first", "second"))
        await anext(running)
        await anext(running)
        await anext(waiting)
        screen = Screen()
        async for update in fill.fill(visitor("third"), "[MASK]", *SETTINGS):
            screen.take(update)
        await running.aclose()  # type: ignore[attr-defined]
        await waiting.aclose()  # type: ignore[attr-defined]
        return screen

    screen = asyncio.run(three())
    assert screen.line == EN.queue_full.format(count=1)
    assert not screen.is_filling


def test_stop_keeps_what_there_is_and_leaves_the_chat_alone(make: Callable[..., Fill], model: FakeFill) -> None:
    model.gate = threading.Semaphore(0)
    visitors = Visitors()
    fill = make(visitors=visitors)

    async def stopped() -> Screen:
        screen = Screen()
        with visitors.answering("me", Mock()) as chat:
            async for update in fill.fill(visitor(), "a [MASK] b [MASK]", *SETTINGS):
                screen.take(update)
                if screen.filled is None and model.gate is not None:
                    model.gate.release(2)
                elif screen.is_filling:
                    await fill.stop(visitor())
            assert not chat.is_set()
        return screen

    screen = asyncio.run(stopped())
    assert screen.line == EN.stopped
    assert screen.texts[-1].startswith("a f")
    assert screen.texts[-1].endswith(" b [MASK]")


def test_leaving_stops_everything_at_once() -> None:
    visitors, replies = Visitors(), [Mock(), Mock(), Mock()]
    mine = [visitors.answering("me", replies[0]), visitors.answering("me", replies[1], "fill")]
    with mine[0] as chat, mine[1] as fill, visitors.answering("you", replies[2]) as other:
        visitors.stop("me")
        assert (chat.is_set(), fill.is_set(), other.is_set()) == (True, True, False)
        # By then, and not when those who show the answers hear of it.
        assert [reply.cancel.called for reply in replies] == [True, True, False]


def test_a_failing_model_gives_a_sentence(make: Callable[..., Fill], model: FakeFill) -> None:
    def fail(blank: int) -> str:
        raise RuntimeError("secret")

    model.answer = fail
    screen = play(make().fill(visitor(), "a [MASK]", *SETTINGS))
    assert screen.line == EN.failed
    assert not screen.is_filling


# ---- settings


def test_settings_become_options() -> None:
    assert fill_options("beams", 5, -0.5, 2, 4, 0.3, 0.2, 7, 99, " 42 ") == FillOptions(
        "beam_search", 99, 0.3, 7, 0.2, 5, -0.5, 4, 2, seed=42, every_kind=True
    )
    assert fill_options("sampling", *SETTINGS[1:]) == FillOptions(every_kind=True)
    assert fill_options("greedy", *SETTINGS[1:]).temperature == 0


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (0, "best"), (0, None), (0, ["beams"]), (1, MOST_BEAMS + 1), (1, 0), (1, "4"), (1, None), (1, True), (2, "x"),
        (2, float("nan")), (3, -1), (4, -1), (5, -1), (6, 2), (7, -1), (8, 0),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(
    make: Callable[..., Fill], model: FakeFill, index: int, value: Any
) -> None:
    settings = [*SETTINGS]
    settings[index] = value
    screen = play(make().fill(visitor(), "a [MASK]", *settings))
    assert screen.line.startswith("This cannot be answered")
    assert model.texts == []


@pytest.mark.parametrize("seed", ["often", "9" * 60])
def test_a_seed_that_is_none_is_said_to_be(make: Callable[..., Fill], model: FakeFill, seed: str) -> None:
    screen = play(make().fill(visitor(), "a [MASK]", *SETTINGS[:9], seed))
    assert screen.line == EN.seed.format(most=2**63 - 1)
    assert model.texts == []


# ---- examples


def test_examples_follow_the_language_and_the_model(make: Callable[..., Fill]) -> None:
    assert make().examples(visitor(language="zh")) == list(DEMO_BLANKS["zh"])
    assert make(is_demo=False).examples(visitor()) == list(BLANKS["en"])
    assert make(language="zh").examples(visitor()) == list(DEMO_BLANKS["zh"])
    for texts in (DEMO_BLANKS, BLANKS):
        assert len(texts["en"]) == len(texts["zh"])


FILLINGS = {"en": ("France", "Tuesday", "cold", "7"), "zh": ("法国", "星期二", "冷", "12")}


def test_the_demo_model_fills_the_examples_that_it_is_offered() -> None:
    """With the settings that the page opens with, in the order of DEMO_BLANKS."""
    model, tokenizer = load(device="cpu")
    for language, answers in FILLINGS.items():
        for text, answer in zip(DEMO_BLANKS[language], answers, strict=True):  # type: ignore[index]
            filled = fill_blanks(model, tokenizer, text, fill_options(*SETTINGS))
            assert filled.texts[0].text == text.replace("[MASK]", answer)
