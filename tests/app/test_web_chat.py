"""The events of the page, called as Gradio calls them, with a model made of plain Python and no browser."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import gradio as gr
import pytest

from app.options import Options
from app.serving.conversation import Message, to_json, to_markdown
from app.serving.engine import Engine
from app.serving.reply import Event, Finished, Text
from app.web.chat import Chat, Visitors, events_until, line, read_history, show
from app.web.wording import EN, ZH, Words
from tests.app.fakes import SEPARATOR, FakeModel, FakeStream, FakeTokenizer, visitor

SETTINGS = (2048, 0.7, 0.95, "")


@pytest.fixture
def stream() -> FakeStream:
    return FakeStream()


@pytest.fixture
def make(stream: FakeStream) -> Iterator[Callable[..., Chat]]:
    engines: list[Engine] = []

    def make(**settings: Any) -> Chat:
        options = Options(**settings)
        engines.append(Engine(FakeModel(), FakeTokenizer(), queue_size=options.queue_size, write_text=stream))
        return Chat(engines[-1], options, Visitors())

    yield make
    if stream.gate is not None:
        stream.gate.release(1_000_000)
    for engine in engines:
        engine.close()


def history(*texts: str) -> str:
    """A conversation of questions and answers in turn, as the page sends it."""
    return json.dumps(messages(*texts))


def messages(*texts: str) -> list[Message]:
    return [Message(role="user" if index % 2 == 0 else "assistant", content=text) for index, text in enumerate(texts)]


class Screen:
    """The page as the updates leave it."""

    def __init__(self, box: str | None = None) -> None:
        self.shown: list[Any] = []
        self.box = box
        self.writing: bool | None = None
        self.line = ""
        self.lines: list[str] = []

    def take(self, update: tuple[Any, Any, Any]) -> None:
        shown, box, text = update
        if isinstance(shown, list):
            self.shown = shown
        if "submit_btn" in box:
            self.writing = not box["submit_btn"]
            self.box = box.get("value", self.box)
        if isinstance(text, str):
            self.line = re.sub(r"<[^>]*>", "", text)
            self.lines.append(self.line)

    @property
    def texts(self) -> list[str]:
        return [message["content"][0]["text"] for message in self.shown]


def play(updates: AsyncIterator[tuple[Any, Any, Any]], *, until: Callable[[Screen], bool] | None = None) -> Screen:
    """Take all updates, or those before one after which `until` holds."""
    screen = Screen()

    async def take() -> None:
        async for update in updates:
            screen.take(update)
            if until is not None and until(screen):
                break

    asyncio.run(take())
    return screen


def test_a_question_is_shown_and_answered(make: Callable[..., Chat], stream: FakeStream) -> None:
    screen = play(make().send(visitor(), history("a", "b"), "c", *SETTINGS))
    assert screen.texts == ["a", "b", "c", "You said: c"]
    assert [message["role"] for message in screen.shown] == ["user", "assistant"] * 2
    assert (screen.box, screen.writing, screen.line) == ("", False, "")
    assert stream.prompts == [SEPARATOR.join("abc")]
    assert screen.lines[0] == EN.thinking


def test_text_for_the_page_is_inert_and_whole(make: Callable[..., Chat], stream: FakeStream) -> None:
    stream.answer = lambda question: "    <b>indented</b>\n\n  ![x](y) "
    screen = play(make().send(visitor(), "[]", "<i>", *SETTINGS))
    assert screen.texts == ["<\u2060i>", "    <\u2060b>indented<\u2060/b>\n\n  !\u2060[x](y) "]
    chatbot = gr.Chatbot().postprocess(screen.shown)
    assert chatbot.model_dump()[1]["content"][0]["text"] == screen.texts[1]


def test_a_question_that_is_blank_changes_nothing(make: Callable[..., Chat]) -> None:
    screen = play(make().send(visitor(), "[]", " \n ", *SETTINGS))
    assert (screen.shown, screen.box, screen.writing, screen.line) == ([], None, None, "")


def test_retry_drops_the_answer_before(make: Callable[..., Chat], stream: FakeStream) -> None:
    data = gr.RetryData(None, {"index": 2, "value": "c"})
    screen = play(make().retry(visitor(), data, history("a", "b", "c", "d"), *SETTINGS))
    assert screen.texts == ["a", "b", "c", "You said: c"]
    assert stream.prompts == [SEPARATOR.join("abc")]


def test_a_draft_in_the_box_outlives_retry_and_edit(make: Callable[..., Chat], stream: FakeStream) -> None:
    retried = gr.RetryData(None, {"index": 0, "value": "a"})
    edited = gr.EditData(None, {"index": 0, "value": "b", "previous_value": "a"})
    chosen = gr.SelectData(None, {"index": 0, "value": {"text": "a"}})
    for updates in (
        make().retry(visitor(), retried, history("a", "b"), *SETTINGS),
        make().edit(visitor(), edited, history("a", "b"), *SETTINGS),
        make().example(visitor(), chosen, "[]", *SETTINGS),
    ):
        screen = play(updates)
        assert screen.texts[-1].startswith("You said")
        assert screen.box is None
        assert screen.writing is False


def test_an_edit_drops_what_followed(make: Callable[..., Chat], stream: FakeStream) -> None:
    data = gr.EditData(None, {"index": 0, "value": "<\u2060new>", "previous_value": "a"})
    screen = play(make().edit(visitor(), data, history("<new>", "b", "c", "d"), *SETTINGS))
    assert stream.prompts == ["<new>"]
    assert screen.texts == ["<\u2060new>", "You said: <\u2060new>"]


def test_an_edit_that_fails_keeps_the_conversation(make: Callable[..., Chat], stream: FakeStream) -> None:
    stream.answer = fail
    data = gr.EditData(None, {"index": 0, "value": "new", "previous_value": "a"})
    screen = play(make().edit(visitor(), data, history("new", "b"), *SETTINGS))
    assert screen.texts == ["a", "b"]
    assert screen.box == "new"
    assert screen.line == EN.failed


def fail(question: str) -> str:
    raise RuntimeError("out of luck")


def test_undo_gives_the_question_back(make: Callable[..., Chat]) -> None:
    screen = Screen()
    screen.take(make().undo(gr.UndoData(None, {"index": 2, "value": "c"}), history("a", "b", "c", "d")))
    assert screen.texts == ["a", "b"]
    assert screen.box == "c"


def test_a_question_with_an_index_of_no_question_is_refused(make: Callable[..., Chat]) -> None:
    for index in (1, 2, -1, "0", [0], None, True):
        with pytest.raises(gr.Error, match="no such question"):
            make().undo(gr.UndoData(None, {"index": index, "value": ""}), history("a", "b"))


def test_stop_keeps_what_there_is(make: Callable[..., Chat], stream: FakeStream) -> None:
    stream.gate = threading.Semaphore(3)
    chat = make()
    screen = Screen()

    async def stop_at_three() -> None:
        async for update in chat.send(visitor(), "[]", "a", *SETTINGS):
            screen.take(update)
            if screen.texts[-1] == "You":
                await chat.stop(visitor())

    asyncio.run(stop_at_three())  # although the model is at its fourth token and gets no further
    assert screen.texts == ["a", "You"]
    assert screen.line == EN.stopped
    assert screen.writing is False
    stream.gate.release(100)
    stream.gate = None
    assert play(chat.send(visitor(), "[]", "b", *SETTINGS)).texts[-1] == "You said: b"
    assert stream.steps <= 4 + len("You said: b")


def test_stop_ends_an_answer_of_which_there_is_always_more() -> None:
    """From a model that is quicker than the page, the next words are there at the same moment as the stop."""

    class Quick:
        cancelled = False

        async def __anext__(self) -> Text:
            return Text("more ")

        def cancel(self) -> None:
            self.cancelled = True

    async def stop_at_three() -> list[Event]:
        stop, taken = asyncio.Event(), []
        async for event in events_until(stop, quick):
            taken.append(event)
            if len(taken) == 3:
                stop.set()
            assert len(taken) < 9
        return taken

    quick: Any = Quick()
    assert asyncio.run(stop_at_three()) == [Text("more ")] * 3 + [Finished("cancelled", 0, 0)]
    assert quick.cancelled


def test_stop_is_for_the_visitor_who_asks(make: Callable[..., Chat], stream: FakeStream) -> None:
    chat = make()
    screen = Screen()

    async def another_stops() -> None:
        async for update in chat.send(visitor("me"), "[]", "a", *SETTINGS):
            await chat.stop(visitor("another"))
            screen.take(update)

    asyncio.run(another_stops())
    assert screen.texts == ["a", "You said: a"]


def test_an_answer_nobody_takes_is_cancelled(make: Callable[..., Chat], stream: FakeStream) -> None:
    stream.gate = threading.Semaphore(3)
    chat = make()

    async def leave() -> None:
        updates = chat.send(visitor(), "[]", "a" * 50, *SETTINGS)
        await anext(updates)
        await updates.aclose()  # type: ignore[attr-defined]

    asyncio.run(leave())
    stream.gate.release(100)
    stream.gate = None
    assert play(chat.send(visitor(), "[]", "b", *SETTINGS)).texts[-1] == "You said: b"
    assert stream.steps < 20


def test_a_full_queue_gives_the_question_back(make: Callable[..., Chat], stream: FakeStream) -> None:
    stream.gate = threading.Semaphore(0)
    chat = make(queue_size=1)

    async def three() -> Screen:
        running, waiting = (chat.send(visitor(name), "[]", name, *SETTINGS) for name in "ab")
        await anext(running)
        while not stream.prompts:
            await asyncio.sleep(0.01)
        await anext(waiting)
        screen = Screen()
        async for update in chat.send(visitor("c"), history("x", "y"), "c", *SETTINGS):
            screen.take(update)
        await running.aclose()  # type: ignore[attr-defined]
        await waiting.aclose()  # type: ignore[attr-defined]
        return screen

    screen = asyncio.run(three())
    assert screen.line == EN.queue_full.format(count=1)
    assert screen.texts == ["x", "y"]
    assert screen.box == "c"


def test_a_trimmed_conversation_says_so_to_the_end(make: Callable[..., Chat], stream: FakeStream) -> None:
    long = history(*["x" * 60] * 6)
    screen = play(make().send(visitor(), long, "next", 256, 0.7, 0.95, ""))
    assert screen.line == EN.trimmed.format(count=2)
    assert len(screen.shown) == 8


@pytest.mark.parametrize(("language", "words"), [("zh-CN", ZH), ("en", EN)])
def test_ends_are_told_in_the_visitors_language(
    make: Callable[..., Chat], stream: FakeStream, language: str, words: Any
) -> None:
    stream.answer = lambda question: "x" * 9999
    cut = play(make().send(visitor(language=language), "[]", "a", *SETTINGS))
    assert cut.line == words.length_full.format(count=2048)
    stream.answer = lambda question: ""
    silent = play(make().send(visitor(language=language), "[]", "a", *SETTINGS))
    assert silent.line == words.silent
    assert silent.box == "a"
    long = play(make().send(visitor(language=language), "[]", "a" * 3000, *SETTINGS))
    assert long.line == words.too_long_full + words.too_long_by.format(tokens=3000, limit=2032)
    endless = play(make().send(visitor(language=language), "[]", "a" * 300_000, *SETTINGS))
    assert endless.line == words.too_long_full
    assert endless.box == "a" * 300_000


def test_settings_go_to_the_model_over_those_of_the_program(make: Callable[..., Chat], stream: FakeStream) -> None:
    play(make(top_k=7).send(visitor(), "[]", "a", 100, 0.5, 0, " 42 "))
    seen = stream.seen_options[-1]
    assert (seen.max_length, seen.top_p, seen.temperature, seen.seed, seen.top_k) == (100, 0.5, 0, 42, 7)


@pytest.mark.parametrize(("language", "words"), [("en", EN), ("zh-CN", ZH)])
@pytest.mark.parametrize("seed", ["-1", "often", "9" * 5000])
def test_a_seed_that_is_none_gives_the_question_back(
    make: Callable[..., Chat], language: str, words: Words, seed: str
) -> None:
    screen = play(make().send(visitor(language=language), "[]", "a", 2048, 0.7, 0.95, seed))
    assert screen.line == words.seed.format(most=2**63 - 1)
    assert screen.box == "a"


@pytest.mark.parametrize(
    "settings",
    [(None, 0.7, 0.95, ""), (2048, "a", 0.95, ""), (2048, 0.7, True, ""),
     (-5, 0.7, 0.95, ""), (2048, 0, 0.95, ""), (2048, float("nan"), 0.95, ""),
     (float("inf"), 0.7, 0.95, ""), (2048, 10**400, 0.95, "")],
)  # fmt: skip
def test_settings_that_make_no_sense_give_the_question_back(
    make: Callable[..., Chat], stream: FakeStream, settings: tuple[Any, ...]
) -> None:
    screen = play(make().send(visitor(), "[]", "a", *settings))
    assert screen.line.startswith("This cannot be answered")
    assert screen.box == "a"
    assert stream.prompts == []


def test_a_chat_is_opened_and_an_unanswered_question_goes_into_the_box(make: Callable[..., Chat]) -> None:
    screen = Screen()
    screen.take(make().open(history("a", "b", "c")))
    assert screen.texts == ["a", "b"]
    assert screen.box == "c"
    screen.take(make().open(""))
    assert screen.texts == ["a", "b"]


def test_a_draft_in_the_box_outlives_an_opened_chat(make: Callable[..., Chat]) -> None:
    screen = Screen(box="a draft")
    screen.take(make().open(history("a", "b")))
    assert screen.texts == ["a", "b"]
    assert screen.box == "a draft"


def test_files_are_read_in_both_forms(make: Callable[..., Chat]) -> None:
    chat, talk = make(), messages("a", "b")
    for text in (to_json(talk), to_markdown(talk), json.dumps(talk)):
        assert read_history(chat.read_file(visitor(), text)[0]) == talk
    assert chat.read_file(visitor(), "")[0] == ""
    for text in ("{}", "some text", "[1]", "[]", to_json([]), "\n"):
        read, notice = chat.read_file(visitor(), text)
        assert read == ""
        assert "could not be imported" in notice


def test_exports_can_be_imported(make: Callable[..., Chat]) -> None:
    chat, talk = make(), history("<b>", "![x](y)")
    for text in (chat.to_json(talk), chat.to_markdown(talk)):
        assert read_history(chat.read_file(visitor(), text)[0]) == read_history(talk)


def test_a_history_is_nothing_but_texts() -> None:
    for text in ("", "{", "{}", '"a"', '[{"role": "user", "content": {"path": "/etc/passwd"}}]', None, 5):
        with pytest.raises(gr.Error):
            read_history(text)  # type: ignore[arg-type]


def test_the_line_shows_text_and_nothing_else() -> None:
    assert "&lt;b&gt;" in line("<b>", "done")
    assert line("", "done") == ""
    both = line("now", "busy", "notice")
    assert both.index("notice") < both.index("now")


def test_questions_are_shown_as_parts() -> None:
    assert show(messages("a")) == [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
