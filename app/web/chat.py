"""What happens when a visitor sends, stops, repeats, edits or opens something: the events of the web page.

The server keeps no conversation. The page sends the whole of it as one JSON text with each question; here it is
read as a file from a stranger would be, and what the model makes of it goes back as text that is inert.
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
from ..serving.engine import Engine, Event, Failed, Finished, Queued, QueueFull, Reply, Text, Trimmed
from . import wording
from .security import inert, plain
from .wording import Words

CHAT = "chat"  # the room of a visitor's answers in the conversation
PAUSE = 0.04  # seconds between two updates of the page: quick to the eye, and the model's thread can breathe
LONGEST_QUESTION = 200_000  # characters: more than any model of this family takes, and not worth encoding

Update = tuple[Any, Any, Any]
"""New values of the conversation, the message box and the line below the conversation."""
Settings = tuple[Any, ...]
"""Maximum length, top-p, temperature and seed as the page sends them: not to be trusted."""


class Visitors:
    """Who is being answered, by the session that Gradio gives to each opened page.

    Used on the server's event loop alone.
    """

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str], tuple[Reply, asyncio.Event]] = {}  # by session and room

    @contextmanager
    def answering(self, session: str, reply: Reply, room: str = CHAT) -> Iterator[asyncio.Event]:
        """While the block runs, `stop` cancels the reply and sets the event. A session has one in each room (tab)."""
        self.stop(session, room)
        answer = self._answers[session, room] = reply, asyncio.Event()
        try:
            yield answer[1]
        finally:
            if self._answers.get((session, room)) is answer:
                del self._answers[session, room]

    def stop(self, session: str, room: str | None = None) -> None:
        """Stop the session's answer in a room, if there is one; without a room all its answers."""
        for (whose, where), (reply, event) in self._answers.items():
            if whose == session and room in (where, None):
                reply.cancel()  # now: who waits for the event may be showing what came before it
                event.set()


async def events_until(stop: asyncio.Event, reply: Reply) -> AsyncIterator[Event]:
    """The events of `reply`. Once `stop` is set, cancels it and ends at once, wherever the model is."""
    stopped = asyncio.ensure_future(stop.wait())
    try:
        while True:
            following = asyncio.ensure_future(anext(reply, None))
            await asyncio.wait({following, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if stopped.done():  # whatever else has come: from a quick model something always has
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
    """What to answer, and what the page goes back to if nothing comes of it."""

    messages: list[Message]  # the last one is the question
    before: list[Message]
    give_back: str | None = None  # for the message box then; None leaves it alone
    typed: bool = False  # in the message box, which is emptied when the answer begins


class Chat:
    """The page's events. Public methods are called by Gradio with the values of the page."""

    def __init__(self, engine: Engine, options: Options, visitors: Visitors) -> None:
        self._engine = engine
        self._options = options
        self._visitors = visitors

    # Events that are answered by the model

    async def send(self, request: gr.Request, history: str, question: str, *settings: Any) -> AsyncIterator[Update]:
        """The visitor's message from the box."""
        if not str(question).strip():
            yield gr.skip(), gr.skip(), gr.skip()
            return
        async for update in self._answer(_next_question(history, str(question), typed=True), settings, request):
            yield update

    async def example(
        self, request: gr.Request, chosen: gr.SelectData, history: str, *settings: Any
    ) -> AsyncIterator[Update]:
        """An example that was clicked; they show while the conversation is empty."""
        async for update in self._answer(_next_question(history, str(chosen.value["text"])), settings, request):
            yield update

    async def retry(
        self, request: gr.Request, chosen: gr.RetryData, history: str, *settings: Any
    ) -> AsyncIterator[Update]:
        """The last question once more."""
        messages = read_history(history)
        index = _index_of_user(messages, chosen.index)
        asked = Question(messages[: index + 1], messages)
        async for update in self._answer(asked, settings, request):
            yield update

    async def edit(
        self, request: gr.Request, chosen: gr.EditData, history: str, *settings: Any
    ) -> AsyncIterator[Update]:
        """A question in other words; what followed it is dropped."""
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

    # Events that are not

    async def stop(self, request: gr.Request) -> None:
        """End the answer; what there is of it stays."""
        self._visitors.stop(str(request.session_hash), CHAT)

    def reset(self) -> Update:
        """Show an empty conversation."""
        return [], box(writing=False), ""

    def undo(self, chosen: gr.UndoData, history: str) -> Update:
        """Take back the last question with its answer, and put it into the box."""
        messages = read_history(history)
        index = _index_of_user(messages, chosen.index)
        return show(messages[:index]), box(messages[index]["content"], writing=False), ""

    def open(self, conversation: str) -> Update:
        """Show a saved conversation. A question that never got its answer goes back into the box.

        Without one the box keeps what is in it: a visitor may look something up while writing.
        """
        if not conversation:
            return gr.skip(), gr.skip(), gr.skip()
        messages = read_history(conversation)
        unanswered = messages.pop()["content"] if messages and messages[-1]["role"] == "user" else ""
        return show(messages), box(unanswered or None, writing=False), ""

    def greet(self, request: gr.Request) -> Any:
        """Examples in the language of the browser."""
        questions = wording.examples(self._engine.model_info, self._language(request))
        return gr.Chatbot(examples=[{"text": question} for question in questions])

    def read_file(self, request: gr.Request, text: str) -> tuple[str, Any]:
        """An imported file -> the conversation as JSON (empty if it cannot be read), and a notice if so."""
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
        """The conversation as a file that can be imported."""
        return to_json(read_history(history))

    def to_markdown(self, history: str) -> str:
        """The conversation as a file to read, which can be imported too."""
        return to_markdown(read_history(history))

    # How an answer runs

    async def _answer(self, asked: Question, settings: Settings, request: gr.Request) -> AsyncIterator[Update]:
        words, model = self._words(request), self._engine.model_info
        try:
            sampling = self._sampling(settings)
            length = min(sampling.max_length, model.context_length)
            if len(asked.messages[-1]["content"]) > LONGEST_QUESTION:
                yield give_up(asked, wording.too_long_line(words, length, model))
                return
            reply = self._engine.submit(asked.messages, sampling)
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
        """The events of a reply as updates of the page. `length`: tokens that question and answer may hold."""
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
                    await asyncio.sleep(PAUSE)  # meanwhile the reply joins what arrives
                case Failed():
                    why = wording.failure_line(words, event, length, model)
                    yield ended(asked, answer, line(why, "failed", notice))
                case Finished(reason):
                    last = {"cancelled": words.stopped, "length": wording.length_line(words, length, model)}
                    silent = "" if answer else words.silent
                    yield ended(asked, answer, line(last.get(reason, silent), "done", notice))

    def _sampling(self, settings: Settings) -> SamplingOptions:
        """The settings of the page over those of the program. Raises ValueError for what is out of range."""
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
    """A conversation for gr.Chatbot. As parts, since Gradio re-indents a text that stands alone."""
    return [
        {"role": message["role"], "content": [{"type": "text", "text": inert(message["content"])}]}
        for message in messages
    ]


def show_answer(asked: Question, answer: str) -> Any:
    """The conversation with as much as there is of the answer."""
    if not answer:
        return gr.skip()
    return show([*asked.messages, Message(role="assistant", content=answer)])


def ended(asked: Question, answer: str, last_line: str) -> Update:
    """The page when the answer has ended, well or not."""
    if not answer:
        return show(asked.before), box(asked.give_back, writing=False), last_line
    return show_answer(asked, answer), box(writing=False), last_line


def give_up(asked: Question, why: str) -> Update:
    """The page as it was before the question, and why."""
    return ended(asked, "", line(why, "failed"))


def box(text: str | None = None, *, writing: bool) -> Any:
    """The message box, with `text` in it if given; while the model writes its button stops the answer."""
    value: dict[str, Any] = {} if text is None else {"value": text}
    return gr.update(submit_btn=not writing, stop_btn=writing, **value)


def line(text: str, state: str, notice: str = "") -> str:
    """The line below the conversation as HTML: what happens now, or how it ended.

    Args:
        state: "busy", "done" or "failed".
        notice: stands in front and stays until the next question.
    """
    parts = [("notice", notice), (state, text)]
    shown = [f'<span role="status" class="{name}">{html.escape(part)}</span>' for name, part in parts if part]
    return " ".join(shown)


# --- values from the page ----------------------------------------------------------------------------------


def read_history(text: str) -> list[Message]:
    """The conversation that the page sent. Raises gr.Error for anything but a list of texts."""
    try:
        return from_json(str(text))
    except ConversationError as error:
        raise gr.Error(str(error), print_exception=False) from error


def _next_question(history: str, text: str, *, typed: bool = False) -> Question:
    before = read_history(history)
    return Question([*before, Message(role="user", content=text)], before, text if typed else None, typed)


def _index_of_user(messages: list[Message], index: Any) -> int:
    """`index` if it names a user's message, else gr.Error: the page and its script always send one."""
    if isinstance(index, int) and 0 <= index < len(messages) and messages[index]["role"] == "user":
        return index
    raise gr.Error("There is no such question.", print_exception=False)


def read_number(value: Any, kind: type[int] | type[float]) -> Any:
    """A number that the page sent. Raises ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"a setting must be a number, not {json.dumps(value)[:50]}")
    try:
        return kind(value)
    except OverflowError as error:  # infinity is no whole number, and not every whole number is a float
        raise ValueError("a setting must be a number of ordinary size") from error


class SeedError(ValueError):
    """A visitor typed a seed that is none."""


def read_seed(text: str) -> int | None:
    """A seed that the page sent, None for an empty text. Raises SeedError for no number."""
    try:
        return int(read_value("seed", text)) if text else None
    except ValueError as error:
        raise SeedError(f"the seed {text[:50]!r} is not {error}") from None
