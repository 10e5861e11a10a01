"""A conversation in the terminal: reads messages, shows answers, keeps what was said."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from rich.text import Text as Line

from glm_model.options import SamplingOptions
from glm_model.text.sanitize import harmless

from ..serving.conversation import Message, whole_characters
from ..serving.engine import Engine
from ..serving.reply import Failed, Finished, Text, Trimmed
from .commands import execute, parse
from .files import log_file
from .keyboard import Keyboard
from .quiet import interruptible, quiet_keyboard
from .screen import MarkdownView, PlainView, View
from .wording import Words
from .wrap import Wrapped


@dataclass
class Answer:
    """What came of a question: the text, and how it ended."""

    pieces: list[str] = field(default_factory=list)
    dropped_rounds: int = 0
    end: Finished | Failed | None = None  # None: left before the end

    @property
    def text(self) -> str:
        """All that the model said, exactly."""
        return "".join(self.pieces)


def receive(engine: Engine, messages: list[Message], sampling: SamplingOptions, view: View) -> Answer:
    """Ask the model and show its answer in `view` as it comes; Ctrl-C stops it and keeps what was said.

    Raises:
        GLMError, ConversationError: the engine does not take the question.
    """
    answer = Answer()
    with engine.submit(messages, sampling) as reply, interruptible(reply.cancel):
        try:
            for event in reply:
                match event:
                    case Text(delta):
                        answer.pieces.append(delta)
                        view.feed(delta)
                    case Trimmed(rounds):
                        answer.dropped_rounds = rounds
                    case Finished() | Failed():
                        answer.end = event
        except KeyboardInterrupt:
            pass
        finally:
            view.close()
    return answer


def remarks(answer: Answer, max_length: int, context_length: int, raised_by: str, words: Words) -> list[str]:
    """What must be said about an answer besides the answer.

    Args:
        max_length: tokens that the user allowed; no more than `context_length`, what the model takes, are used.
        raised_by: what to type to allow more.
    """
    more = words.raised_by.format(how=raised_by) if max_length < context_length else ""
    said = []
    if answer.dropped_rounds:
        said.append(words.trimmed.format(rounds=answer.dropped_rounds))
    match answer.end:
        case None | Finished(reason="cancelled"):
            said.append(words.stopped)
        case Finished(reason="length"):
            said.append(words.cut.format(max_length=min(max_length, context_length), more=more))
        case Finished() if not answer.text.strip():
            said.append(words.empty)
        case Failed(kind="too_long") as failed:
            said.append(words.failed_long.format(tokens=failed.tokens, limit=failed.limit, more=more))
        case Failed(kind="memory"):
            said.append(words.failed_memory)
        case Failed() as failed:
            said.append(words.failed.format(message=failed.message, log=log_file() or "-"))
        case _:
            pass
    return said


class Chat:
    """The interactive session.

    `messages` holds finished rounds; a question whose answer failed or stayed empty is kept apart, for /retry.
    """

    def __init__(
        self, engine: Engine, sampling: SamplingOptions, words: Words, console: Console, keyboard: Keyboard
    ) -> None:
        self.sampling, self.words = sampling, words
        self.messages: list[Message] = []
        self._engine, self._console, self._keyboard = engine, console, keyboard
        self._unanswered: str | None = None
        self._leaving = False

    def run(self) -> None:
        """Talk until somebody leaves."""
        self._banner()
        with quiet_keyboard():
            while not self._leaving:
                try:
                    self._turn()
                except KeyboardInterrupt:  # on an empty line, or just before or after an answer
                    self.notice(self.words.leave_hint)

    def _turn(self) -> None:
        try:
            line = self._keyboard.read()
        except EOFError:
            self.leave()
            return
        command = parse(line)
        if command is None:
            self.ask(whole_characters(line.strip()))
        else:
            execute(self, *command)

    def ask(self, question: str) -> None:
        """Put a question to the model, show the answer, keep both."""
        self._unanswered = question
        asked = Message(role="user", content=question)
        self.say(self.words.glm, style="bold green")
        try:
            answer = receive(self._engine, [*self.messages, asked], self.sampling, self._view())
        except ValueError as error:
            self.notice(str(error))
            return
        context_length = self._engine.model_info.context_length
        for remark in remarks(answer, self.sampling.max_length, context_length, "/set max_length N", self.words):
            self.notice(remark)
        self._console.print()
        if answer.text.strip() and not isinstance(answer.end, Failed):
            self.messages += [asked, Message(role="assistant", content=answer.text)]
            self._unanswered = None

    def _view(self) -> View:
        if self._console.is_dumb_terminal or self._console.legacy_windows:
            return PlainView(self._console.file)
        return MarkdownView(self._console, placeholder=self.words.waiting)

    def _banner(self) -> None:
        info = self._engine.model_info
        device = f"{info.device}, {info.quantization}" if info.quantization else info.device
        self.say(self.words.banner.format(name=info.name, size=count_in_words(info.parameters), device=device), "bold")
        if info.kernel:
            self.say(info.kernel, "dim")
        if info.is_demo:
            self.say(self.words.demo, "yellow")
        self.say(self.words.keys, "dim")
        self._console.print()

    # What commands do.

    def say(self, text: str, style: str = "") -> None:
        """Print a line of the program's own, with nothing in it interpreted."""
        self._console.print(Wrapped(Line(harmless(text), style=style)))

    def say_rows(self, rows: list[tuple[str, str]]) -> None:
        """Print names and what belongs to each, in two columns."""
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        for name, text in rows:
            table.add_row(Line("  " + harmless(name)), Wrapped(Line(harmless(text))))
        self._console.print(table)

    def notice(self, text: str) -> None:
        """Print a remark that must not be taken for the model's words."""
        self.say(text, "yellow")

    def confirm(self, question: str) -> bool:
        """Ask the user for yes or no."""
        return self._keyboard.confirm(question)

    def leave(self) -> None:
        """End the session after this command."""
        self._leaving = True

    def forget(self) -> None:
        """Start anew, on a clear screen as the original did."""
        self.messages, self._unanswered = [], None
        self._console.clear()

    def resume(self, messages: list[Message]) -> None:
        """Go on with a saved conversation and show its end; a question without an answer waits for /retry."""
        open_question = messages[-1]["content"] if messages and messages[-1]["role"] == "user" else None
        self._unanswered = open_question
        self.messages = messages if open_question is None else messages[:-1]
        for message in messages[-2:]:
            self._show(message)

    def _show(self, message: Message) -> None:
        if message["role"] == "user":
            self.say(self.words.you + message["content"])
        else:
            self.say(self.words.glm, "bold green")
            view = self._view()
            view.feed(message["content"])
            view.close()
            self._console.print()

    def retry(self) -> bool:
        """Ask the last question again, instead of the answer that it got; False if there was none."""
        question = self._unanswered
        if question is None:
            asked = [index for index, message in enumerate(self.messages) if message["role"] == "user"]
            if not asked:
                return False
            question = self.messages[asked[-1]]["content"]
            self.messages = self.messages[: asked[-1]]
        self.ask(question)
        return True


def count_in_words(number: int) -> str:
    """A number of parameters as people say it: 950, 3.1M, 6.17B."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return str(number)
