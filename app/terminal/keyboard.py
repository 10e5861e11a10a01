"""Read messages from the keyboard, with a line editor.

prompt_toolkit provides the editing: wide characters, history, completion, pasting of several lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter, get_common_complete_suffix
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output
from prompt_toolkit.styles import Style

STYLE = Style.from_dict({"prompt": "ansiblue bold"})
MENU_ROWS = 5  # kept free below the message for completions


class CommandCompleter(Completer):
    """A completer for commands, the settings of `/set`, and file names.

    Args:
        commands: maps each command, with its slash, to one line of help.
        settings: the names that `/set` accepts.
        files: the commands with a file name as argument.
    """

    def __init__(self, commands: Mapping[str, str], settings: Sequence[str], files: Sequence[str]) -> None:
        self._commands, self._settings, self._files = commands, settings, files
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Yield the completions of a command; prompt_toolkit calls this at every key. Messages have none."""
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        command, space, argument = text.partition(" ")
        if not space:
            yield from _starting_with(command, self._commands)
        elif command == "/set" and " " not in argument:
            yield from _starting_with(argument, dict.fromkeys(self._settings, ""))
        elif command in self._files:
            yield from self._paths.get_completions(Document(argument), complete_event)


def _starting_with(begun: str, names: Mapping[str, str]) -> Iterator[Completion]:
    for name, explanation in names.items():
        if name.startswith(begun):
            yield Completion(name, start_position=-len(begun), display_meta=explanation)


class Keyboard:
    """A reader of messages of one or more lines, with history and completion."""

    def __init__(
        self,
        prompt: str,
        *,
        completer: Completer | None = None,
        history_file: Path | None = None,
        input: Input | None = None,
        output: Output | None = None,
    ) -> None:
        self._session: PromptSession[str] = PromptSession(
            [("class:prompt", prompt)],
            multiline=True,
            prompt_continuation=lambda width, line, wraps: " " * width,
            key_bindings=_bindings(),
            history=_history(history_file),
            completer=completer,
            complete_while_typing=True,
            enable_suspend=True,  # else Ctrl-Z would insert a character
            reserve_space_for_menu=MENU_ROWS if completer else 0,
            style=STYLE,
            input=input,
            output=output,
        )

    def read(self) -> str:
        """Return the next message.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed on an empty line.
            EOFError: Ctrl-D was pressed on an empty line.
        """
        return self._session.prompt()

    def confirm(self, question: str) -> bool:
        """Return True if the user answers yes, False for every other input, Ctrl-C and Ctrl-D."""
        app = self._session.app
        asking: PromptSession[str] = PromptSession(question, input=app.input, output=app.output)
        with suppress(KeyboardInterrupt, EOFError):
            return asking.prompt().strip().lower() in ("y", "yes", "是")
        return False


def _bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter")
    def _send(event: KeyPressEvent) -> None:
        if event.current_buffer.text.strip():
            event.current_buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    @bindings.add("c-j")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @bindings.add("tab")
    def _complete(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        found = list(buffer.completer.get_completions(buffer.document, CompleteEvent(completion_requested=True)))
        if len(found) == 1:
            buffer.apply_completion(found[0])
        elif buffer.complete_state:
            buffer.complete_next()
        elif found:
            buffer.insert_text(get_common_complete_suffix(buffer.document, found))
            buffer.start_completion()

    @bindings.add("c-c")
    def _empty_or_leave(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    @bindings.add("<sigint>")
    def _leave(event: KeyPressEvent) -> None:  # no key: somebody has sent the signal, to end the program
        event.app.exit(exception=EOFError)

    return bindings


class _PrivateHistory(FileHistory):
    """The messages of earlier sessions, in a file that only its owner can read. I/O errors are ignored."""

    def load_history_strings(self) -> Iterable[str]:
        with suppress(OSError):
            return list(super().load_history_strings())
        return []

    def store_string(self, string: str) -> None:
        with suppress(OSError, UnicodeError):
            super().store_string(string)


def _history(file: Path | None) -> History:
    if file is None:
        return InMemoryHistory()
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return _PrivateHistory(str(file))
