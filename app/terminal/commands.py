"""Parse and run the commands that can be typed instead of a message.

They are /help, /clear, /retry, /set, /save, /load and /stop, and as in the published cli_demo.py the bare words `clear`
and `stop`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from glm_model.options import SamplingOptions

from ..options import Options, answer_settings, read_value
from ..serving.conversation import Message
from .files import read, write
from .wording import Words


class Chat(Protocol):
    """The conversation that a command acts on."""

    words: Words
    sampling: SamplingOptions
    messages: list[Message]

    def say(self, text: str) -> None: ...
    def say_rows(self, rows: list[tuple[str, str]]) -> None: ...
    def notice(self, text: str) -> None: ...
    def confirm(self, question: str) -> bool: ...
    def forget(self) -> None: ...
    def leave(self) -> None: ...
    def retry(self) -> bool: ...
    def resume(self, messages: list[Message]) -> None: ...


@dataclass(frozen=True)
class Command:
    """A command of the chat.

    Attributes:
        name: the command with its slash.
        argument: the argument as the help shows it, empty if there is none.
        explain: returns the help text in the given language.
        run: runs the command on the chat with the argument that was typed.
    """

    name: str
    argument: str
    explain: Callable[[Words], str]
    run: Callable[[Chat, str], None]


def parse(line: str) -> tuple[str, str] | None:
    """Return the command and its argument if `line` is a command, None if it is a message for the model.

    A command has a slash as its first character; a space before it, or a second line, makes it a message. The single
    words `clear` and `stop` are commands too, as in the published cli_demo.py.
    """
    if line.strip() in ("clear", "stop"):
        return "/" + line.strip(), ""
    if not line.startswith("/") or "\n" in line.strip():
        return None
    name, _, argument = line.strip().partition(" ")
    return name, argument.strip()


def execute(chat: Chat, name: str, argument: str) -> None:
    """Run a command that `parse` returned, or print that there is no command of that name."""
    command = COMMANDS.get(name)
    if command is None:
        chat.notice(chat.words.unknown.format(command=name))
    elif command.argument == "FILE" and not argument:
        chat.notice(chat.words.needs_file.format(command=name))
    else:
        command.run(chat, argument)


# --- the commands


def _help(chat: Chat, argument: str) -> None:
    shown = {command.name: command for command in COMMANDS.values()}
    rows = [(f"{each.name} {each.argument}", each.explain(chat.words)) for each in shown.values()]
    chat.say(chat.words.help_title)
    chat.say_rows(rows)
    chat.say(chat.words.help_keys)


def _clear(chat: Chat, argument: str) -> None:
    chat.forget()
    chat.notice(chat.words.cleared)


def _stop(chat: Chat, argument: str) -> None:
    chat.leave()


def _retry(chat: Chat, argument: str) -> None:
    if not chat.retry():
        chat.notice(chat.words.nothing_to_retry)


def _set(chat: Chat, argument: str) -> None:
    words = chat.words
    name, _, text = argument.replace("=", " ", 1).partition(" ")
    name, text = name.replace("-", "_"), text.strip()
    if not argument:
        chat.say(words.settings)
        chat.say_rows([(each, _shown(getattr(chat.sampling, each))) for each in answer_settings()])
    elif name not in answer_settings() or not text:
        chat.notice(words.set_usage.format(names=", ".join(answer_settings())))
    else:
        _change(chat, name, text)


def _change(chat: Chat, name: str, text: str) -> None:
    try:
        unset = text.lower() == "none" and getattr(Options(), name) is None
        value = None if unset else read_value(name, text)
        changed: dict[str, Any] = {name: value}
        chat.sampling = dataclasses.replace(chat.sampling, **changed)
    except ValueError as error:
        chat.notice(chat.words.set_wrong.format(name=name, value=text, allowed=error))
    else:
        chat.notice(chat.words.set_done.format(name=name, value=_shown(value)))


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


def _save(chat: Chat, argument: str) -> None:
    words, path = chat.words, _path(argument)
    if not chat.messages:
        chat.notice(words.nothing_to_save)
        return
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.exists() and not chat.confirm(words.overwrite.format(file=path)):
            return
        write(path, chat.messages)
    except (OSError, ValueError) as error:
        chat.notice(words.cannot_save.format(file=path, reason=_reason(error)))
    else:
        chat.notice(words.saved.format(count=len(chat.messages), file=path))


def _load(chat: Chat, argument: str) -> None:
    path = _path(argument)
    try:
        messages = read(path)
    except (OSError, ValueError) as error:  # ValueError: a ConversationError, or an impossible file name
        chat.notice(chat.words.cannot_read.format(file=path, reason=_reason(error)))
    else:
        chat.notice(chat.words.loaded.format(count=len(messages), file=path))
        chat.resume(messages)


def _reason(error: OSError | ValueError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _path(argument: str) -> Path:
    """Return the path that was typed, without quotes around it and with `~` expanded to the home folder."""
    if len(argument) > 1 and argument[0] == argument[-1] and argument[0] in "\"'":
        argument = argument[1:-1]
    with contextlib.suppress(RuntimeError):
        return Path(argument).expanduser()
    return Path(argument)


COMMANDS: dict[str, Command] = {
    "/help": Command("/help", "", lambda words: words.help_help, _help),
    "/clear": Command("/clear", "", lambda words: words.help_clear, _clear),
    "/retry": Command("/retry", "", lambda words: words.help_retry, _retry),
    "/set": Command("/set", "NAME VALUE", lambda words: words.help_set, _set),
    "/save": Command("/save", "FILE", lambda words: words.help_save, _save),
    "/load": Command("/load", "FILE", lambda words: words.help_load, _load),
    "/stop": Command("/stop", "", lambda words: words.help_stop, _stop),
}
COMMANDS["/quit"] = COMMANDS["/exit"] = COMMANDS["/stop"]
