"""Hold a conversation in the terminal: read messages, show answers, keep the history."""

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
    """The answer to a question.

    Attributes:
        pieces: the texts in the order of their arrival.
        dropped_rounds: the number of oldest rounds that did not fit into the prompt.
        end: the last event, None if the user left before it.
    """

    pieces: list[str] = field(default_factory=list)
    dropped_rounds: int = 0
    end: Finished | Failed | None = None

    @property
    def text(self) -> str:
        """The whole text of the answer, unchanged."""
        return "".join(self.pieces)


def receive(engine: Engine, messages: list[Message], sampling: SamplingOptions, view: View) -> Answer:
    """Return the model's answer and show it in `view` meanwhile; Ctrl-C stops it and keeps its text.

    Raises:
        GLMError, ConversationError: the engine refuses the conversation.
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
    """Return the remarks that are printed after an answer, such as that it was cut or has failed.

    Args:
        max_length: the maximum length in tokens that the user has set; at most `context_length` is used.
        context_length: the number of tokens that the model was trained for.
        raised_by: the option or command that raises the maximum length.
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

    `messages` holds the finished rounds. A question whose answer failed or stayed empty is kept apart for /retry.
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
        """Read and answer messages until the user leaves."""
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
        """Send a question to the model, show the answer, and add both to the history."""
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

    # Actions of the commands (commands.Chat).

    def say(self, text: str, style: str = "") -> None:
        """Print a text of the program. Markup and control characters in it have no effect."""
        self._console.print(Wrapped(Line(harmless(text), style=style)))

    def say_rows(self, rows: list[tuple[str, str]]) -> None:
        """Print pairs of a name and its text in two columns."""
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        for name, text in rows:
            table.add_row(Line("  " + harmless(name)), Wrapped(Line(harmless(text))))
        self._console.print(table)

    def notice(self, text: str) -> None:
        """Print a remark in a colour that distinguishes it from the model's answer."""
        self.say(text, "yellow")

    def confirm(self, question: str) -> bool:
        """Return the user's answer to a yes-or-no question."""
        return self._keyboard.confirm(question)

    def leave(self) -> None:
        """End the session after this command."""
        self._leaving = True

    def forget(self) -> None:
        """Start a new conversation and clear the screen, as the published cli_demo.py does."""
        self.messages, self._unanswered = [], None
        self._console.clear()

    def resume(self, messages: list[Message]) -> None:
        """Continue a saved conversation and show its end; a last question without an answer is kept for /retry."""
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
        """Ask the last question again and replace its answer. Return False if there is no question."""
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
    """Return a number of parameters in short form: 950, 3.1M, 6.17B."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return str(number)
