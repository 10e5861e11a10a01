"""Handle the events of the chat tab: a visitor sends, stops, repeats, edits or opens something.

The server stores no conversation. With each question the page sends the whole conversation as one JSON text, which is
checked like any untrusted file. The answer of the model is sent back as inert text (see security.py).
"""

from __future__ import annotations

import asyncio
import html
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from glm_model.options import SamplingOptions

from ..options import MOST_SEED, Options, read_value
from ..serving.conversation import ConversationError, Message, from_file, from_json, to_json, to_markdown
from ..serving.engine import Engine, QueueFull
from ..serving.reply import Event, Failed, Finished, Queued, Reply, Text, Trimmed
from . import wording
from .security import inert, plain
from .wording import Words

CHAT = "chat"  # the tab of an answer, as `Visitors` counts them
PAUSE = 0.04  # seconds between two updates of the page: fast to the eye, and cheap for the model's thread
LONGEST_QUESTION = 200_000  # characters, more than any model of this family accepts; longer texts are not encoded

Update = tuple[Any, Any, Any]
"""New values of the conversation, the message box and the line below the conversation."""
Settings = tuple[Any, ...]
"""Maximum length, top-p, temperature and seed as the page sends them, unchecked."""


class Visitors:
    """The running answers, by session and tab. Gradio gives each opened page a session.

    All methods run on the server's event loop.
    """

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str], tuple[Reply, asyncio.Event]] = {}  # by session and tab

    @contextmanager
    def answering(self, session: str, reply: Reply, room: str = CHAT) -> Iterator[asyncio.Event]:
        """Register a reply while the block runs, and yield the event that `stop` sets when it cancels the reply.

        A session has at most one answer in each tab (`room`), so an earlier one is stopped.
        """
        self.stop(session, room)
        answer = self._answers[session, room] = reply, asyncio.Event()
        try:
            yield answer[1]
        finally:
            if self._answers.get((session, room)) is answer:
                del self._answers[session, room]

    def stop(self, session: str, room: str | None = None) -> None:
        """Stop the session's answer in a tab, if there is one; without `room` stop all its answers."""
        for (whose, where), (reply, event) in self._answers.items():
            if whose == session and room in (where, None):
                reply.cancel()  # at once, since the task that waits for the event may still be showing earlier ones
                event.set()


async def events_until(stop: asyncio.Event, reply: Reply) -> AsyncIterator[Event]:
    """Yield the events of `reply`. Once `stop` is set, cancel it and end at once, without waiting for the model."""
    stopped = asyncio.ensure_future(stop.wait())
    try:
        while True:
            following = asyncio.ensure_future(anext(reply, None))
            await asyncio.wait({following, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if stopped.done():  # checked first: a fast model always has the next event ready
                following.cancel()
                reply.cancel()
                yield Finished("cancelled", 0, 0)
                return
            event = following.result()
            if event is None:
                return
            yield event
    finally:
        stopped.cancel()


@dataclass(frozen=True)
class Question:
    """A conversation to answer, and what the page shows if there is no answer.

    Attributes:
        messages: the conversation; the last message is the question.
        before: the conversation as it was before the question.
        give_back: the text that then goes back into the message box; None leaves the box unchanged.
        typed: the question was typed into the message box, which is emptied when the answer begins.
    """

    messages: list[Message]
    before: list[Message]
    give_back: str | None = None
    typed: bool = False


class Chat:
    """The event handlers of the chat tab. Gradio calls the public methods with the values of the page."""

    def __init__(self, engine: Engine, options: Options, visitors: Visitors) -> None:
        self._engine = engine
        self._options = options
        self._visitors = visitors

    # Events that the model answers

    async def send(self, request: gr.Request, history: str, question: str, *settings: Any) -> AsyncIterator[Update]:
        """Answer the message in the box; do nothing if it is blank."""
        if not str(question).strip():
            yield gr.skip(), gr.skip(), gr.skip()
            return
        async for update in self._answer(_next_question(history, str(question), typed=True), settings, request):
            yield update

    async def example(
        self, request: gr.Request, chosen: gr.SelectData, history: str, *settings: Any
    ) -> AsyncIterator[Update]:
        """Answer an example question that was clicked. Examples are shown while the conversation is empty."""
        async for update in self._answer(_next_question(history, str(chosen.value["text"])), settings, request):
            yield update

    async def retry(
        self, request: gr.Request, chosen: gr.RetryData, history: str, *settings: Any
    ) -> AsyncIterator[Update]:
        """Answer the chosen question again; the messages after it are dropped."""
        messages = read_history(history)
        index = _index_of_user(messages, chosen.index)
        asked = Question(messages[: index + 1], messages)
        async for update in self._answer(asked, settings, request):
            yield update

    async def edit(
        self, request: gr.Request, chosen: gr.EditData, history: str, *settings: Any
    ) -> AsyncIterator[Update]:
        """Answer an edited question; the messages after it are dropped."""
        messages = read_history(history)
        index = _index_of_user(messages, chosen.index)
        text = plain(str(chosen.value))
        before = [*messages]
        before[index] = Message(role="user", content=plain(str(chosen.previous_value)))
        if not text.strip():
            yield show(before), gr.skip(), ""
            return
        asked = Question([*messages[:index], Message(role="user", content=text)], before, text)
        async for update in self._answer(asked, settings, request):
            yield update

    # Events that need no model

    async def stop(self, request: gr.Request) -> None:
        """Stop the answer; the text so far stays."""
        self._visitors.stop(str(request.session_hash), CHAT)

    def reset(self) -> Update:
        """Show an empty conversation."""
        return [], box(writing=False), ""

    def undo(self, chosen: gr.UndoData, history: str) -> Update:
        """Remove the last question and its answer, and put the question into the box."""
        messages = read_history(history)
        index = _index_of_user(messages, chosen.index)
        return show(messages[:index]), box(messages[index]["content"], writing=False), ""

    def open(self, conversation: str) -> Update:
        """Show a saved conversation. A last question without an answer goes into the message box.

        Otherwise the box keeps its text, since a visitor may look at another conversation while writing.
        """
        if not conversation:
            return gr.skip(), gr.skip(), gr.skip()
        messages = read_history(conversation)
        unanswered = messages.pop()["content"] if messages and messages[-1]["role"] == "user" else ""
        return show(messages), box(unanswered or None, writing=False), ""

    def greet(self, request: gr.Request) -> Any:
        """Return the chat with examples in the browser's language."""
        questions = wording.examples(self._engine.model_info, self._language(request))
        return gr.Chatbot(examples=[{"text": question} for question in questions])

    def read_file(self, request: gr.Request, text: str) -> tuple[str, Any]:
        """Return an imported file as a JSON conversation, or an empty text and a notice if it cannot be read."""
        if not text:
            return "", gr.skip()
        try:
            messages = from_file(text)
            if not messages:
                raise ConversationError("there is no message in it", "empty")
            return to_json(messages), ""
        except ConversationError as error:
            return "", line(wording.import_line(self._words(request), error), "failed")

    def to_json(self, history: str) -> str:
        """Return the conversation as the JSON text of an exported file."""
        return to_json(read_history(history))

    def to_markdown(self, history: str) -> str:
        """Return the conversation as the Markdown text of an exported file, which can be imported too."""
        return to_markdown(read_history(history))

    # The course of an answer

    async def _answer(self, asked: Question, settings: Settings, request: gr.Request) -> AsyncIterator[Update]:
        words, model = self._words(request), self._engine.model_info
        try:
            sampling = self._sampling(settings)
            length = min(sampling.max_length, model.context_length)
            if len(asked.messages[-1]["content"]) > LONGEST_QUESTION:
                yield give_up(asked, wording.too_long_line(words, length, model))
                return
            reply = self._engine.submit(asked.messages, sampling, owner=request.session_hash)
        except QueueFull:
            yield give_up(asked, words.queue_full.format(count=self._options.queue_size))
            return
        except SeedError:
            yield give_up(asked, words.seed.format(most=MOST_SEED))
            return
        except ValueError as error:
            yield give_up(asked, words.refused.format(reason=error))
            return
        with reply, self._visitors.answering(str(request.session_hash), reply) as stop:
            yield show(asked.messages), box("" if asked.typed else None, writing=True), line(words.thinking, "busy")
            async for update in self._updates(asked, events_until(stop, reply), words, length):
                yield update

    async def _updates(
        self, asked: Question, events: AsyncIterator[Event], words: Words, length: int
    ) -> AsyncIterator[Update]:
        """Yield the page's updates for the events of a reply. `length`: the limit of prompt and answer in tokens."""
        model = self._engine.model_info
        answer = notice = ""
        async for event in events:
            match event:
                case Queued(position):
                    yield gr.skip(), gr.skip(), line(wording.queue_line(words, position), "busy")
                    await asyncio.sleep(PAUSE)
                case Trimmed(rounds):
                    notice = wording.trim_line(words, rounds)
                case Text(delta):
                    answer += delta
                    doing = words.writing if answer else words.thinking
                    yield show_answer(asked, answer), gr.skip(), line(doing, "busy", notice)
                    await asyncio.sleep(PAUSE)  # the reply joins the texts that arrive meanwhile
                case Failed():
                    why = wording.failure_line(words, event, length, model)
                    yield ended(asked, answer, line(why, "failed", notice))
                case Finished(reason):
                    last = {"cancelled": words.stopped, "length": wording.length_line(words, length, model)}
                    silent = "" if answer else words.silent
                    yield ended(asked, answer, line(last.get(reason, silent), "done", notice))

    def _sampling(self, settings: Settings) -> SamplingOptions:
        """Return the program's settings, replaced by those of the page. Raise ValueError if one is out of range."""
        max_length, top_p, temperature, seed = settings
        return replace(
            self._options.sampling(),
            max_length=read_number(max_length, int),
            top_p=read_number(top_p, float),
            temperature=read_number(temperature, float),
            seed=read_seed("" if seed is None else str(seed).strip()),
        )

    def _language(self, request: gr.Request) -> wording.Language:
        return wording.pick_language(self._options.language, request.headers.get("accept-language"))

    def _words(self, request: gr.Request) -> Words:
        return wording.WORDS[self._language(request)]


# --- values of the page ------------------------------------------------------------------------------------


def show(messages: list[Message]) -> list[dict[str, Any]]:
    """Return a conversation for gr.Chatbot. Contents are lists of parts, since Gradio re-indents a bare text."""
    return [
        {"role": message["role"], "content": [{"type": "text", "text": inert(message["content"])}]}
        for message in messages
    ]


def show_answer(asked: Question, answer: str) -> Any:
    """Return the conversation with the answer so far, no change if the answer is empty."""
    if not answer:
        return gr.skip()
    return show([*asked.messages, Message(role="assistant", content=answer)])


def ended(asked: Question, answer: str, last_line: str) -> Update:
    """Return the update for the end of an answer, whether it succeeded or failed."""
    if not answer:
        return show(asked.before), box(asked.give_back, writing=False), last_line
    return show_answer(asked, answer), box(writing=False), last_line


def give_up(asked: Question, why: str) -> Update:
    """Return the update that restores the page as it was before the question and shows the reason."""
    return ended(asked, "", line(why, "failed"))


def box(text: str | None = None, *, writing: bool) -> Any:
    """Return the message box's update, with `text` if given. While the model writes, its button stops it."""
    value: dict[str, Any] = {} if text is None else {"value": text}
    return gr.update(submit_btn=not writing, stop_btn=writing, **value)


def line(text: str, state: str, notice: str = "") -> str:
    """Return the status line below the conversation as HTML: what happens now, or how it ended.

    Args:
        state: "busy", "done" or "failed".
        notice: a text in front, which stays until the next question.
    """
    parts = [("notice", notice), (state, text)]
    shown = [f'<span role="status" class="{name}">{html.escape(part)}</span>' for name, part in parts if part]
    return " ".join(shown)


# --- values from the page ----------------------------------------------------------------------------------


def read_history(text: str) -> list[Message]:
    """Return the conversation that the page sent. Raise gr.Error if it is malformed."""
    try:
        return from_json(str(text))
    except ConversationError as error:
        raise gr.Error(str(error), print_exception=False) from error


def _next_question(history: str, text: str, *, typed: bool = False) -> Question:
    before = read_history(history)
    return Question([*before, Message(role="user", content=text)], before, text if typed else None, typed)


def _index_of_user(messages: list[Message], index: Any) -> int:
    """Return `index` if it is that of a user's message. Raise gr.Error if not, which the page never sends."""
    if isinstance(index, int) and 0 <= index < len(messages) and messages[index]["role"] == "user":
        return index
    raise gr.Error("There is no such question.", print_exception=False)


def read_number(value: Any, kind: type[int] | type[float]) -> Any:
    """Return a number that the page sent, as `kind`. Raise ValueError if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"a setting must be a number, not {json.dumps(value)[:50]}")
    try:
        return kind(value)
    except OverflowError as error:  # int(inf), or float() of a huge int
        raise ValueError("a setting must be a number of ordinary size") from error


class SeedError(ValueError):
    """The error for a typed seed that is not valid."""


def read_seed(text: str) -> int | None:
    """Return the seed that the page sent, None if it is empty. Raise SeedError if it is not valid."""
    try:
        return int(read_value("seed", text)) if text else None
    except ValueError as error:
        raise SeedError(f"the seed {text[:50]!r} is not {error}") from None
