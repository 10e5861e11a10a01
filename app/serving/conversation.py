"""Check conversations, trim them to a token budget, and convert them to and from JSON and Markdown.

Conversations are plain data here: the module uses no model, tokenizer or front-end and does not import torch. The
caller passes in the function that counts tokens.
"""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypedDict

Role = Literal["user", "assistant"]

FORMAT = "glm-conversation"
VERSION = 1
# Far more than a person types; the limit keeps a wrong file from filling the memory.
MAX_IMPORT_CHARS = 4_000_000
MAX_IMPORT_BYTES = 4 * MAX_IMPORT_CHARS


class Message(TypedDict):
    """One message of a conversation: its author and its text."""

    role: Role
    content: str


class ConversationError(ValueError):
    """An error in a conversation that cannot be read or used; its message tells the user where and why.

    With `kind`, the type of the fault, and `values`, the values in the message, a front-end can give the message in
    another language.
    """

    def __init__(self, message: str, kind: str = "", **values: object) -> None:
        super().__init__(message)
        self.kind, self.values = kind, values


def check_messages(messages: object) -> list[Message]:
    """Return a new list of the messages, with only role and content in each.

    Raises:
        ConversationError: `messages` is no list, or a message is not a text of the user or the assistant; its number is
            named.
    """
    if not isinstance(messages, list | tuple):
        raise ConversationError("the messages must be a list", "list")
    return [_check_message(number, message) for number, message in enumerate(messages, start=1)]


def _check_message(number: int, message: object) -> Message:
    if not isinstance(message, dict):
        raise ConversationError(
            f"message {number} must be an object with a role and a content", "message", number=number
        )
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant"):
        shown = repr(role)[:40]
        raise ConversationError(
            f"message {number}: the role must be 'user' or 'assistant', not {shown}", "role", number=number, role=shown
        )
    if not isinstance(content, str):
        raise ConversationError(
            f"message {number}: the content must be a text, not {type(content).__name__}", "content", number=number
        )
    return Message(role=role, content=whole_characters(content))


def whole_characters(text: str) -> str:
    r"""Return `text` with U+FFFD in place of each lone surrogate.

    Surrogates come from "\ud83d" in JSON or from a wrong byte typed in a terminal. Tokenizers and files reject them.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# --- trimming ----------------------------------------------------------------------------------------------


def trim(
    messages: Sequence[Message], count_tokens: Callable[[list[Message]], int], budget: int
) -> tuple[list[Message], int]:
    """Drop as few of the oldest rounds as needed for the rest to fit into `budget` tokens.

    A round is a user's message and all messages up to the next one of the user. The last round always stays, even if it
    alone exceeds the budget; the caller decides what to do then. `count_tokens` is called once if everything fits, else
    about log2(rounds) times, so that the cost stays far below quadratic in the conversation's length.

    Returns:
        The messages kept and the number of rounds dropped.
    """
    messages = list(messages)
    starts = _round_starts(messages)
    if len(starts) < 2 or count_tokens(messages) <= budget:
        return messages, 0

    def fits(dropped: int) -> bool:
        return dropped == len(starts) - 1 or count_tokens(messages[starts[dropped] :]) <= budget

    dropped = bisect.bisect_left(range(len(starts)), True, lo=1, key=fits)
    return messages[starts[dropped] :], dropped


def _round_starts(messages: list[Message]) -> list[int]:
    """Return the index at which each round begins. The first round includes messages before the user's first."""
    starts = [index for index, message in enumerate(messages) if message["role"] == "user"]
    return [0, *starts[1:]]


# --- files -------------------------------------------------------------------------------------------------


def from_file(text: str) -> list[Message]:
    """Return the conversation in a saved file. The text decides between JSON and Markdown, since files get renamed.

    Raises:
        ConversationError: a sentence that says what is wrong with the file.
    """
    read = from_json if text.lstrip().startswith(("{", "[")) else from_markdown
    return read(text)


# --- JSON --------------------------------------------------------------------------------------------------


def to_json(messages: Sequence[Message]) -> str:
    """Return the conversation as a JSON document with a format name and a version; `from_json` reads it."""
    document = {"format": FORMAT, "version": VERSION, "messages": list(messages)}
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


def from_json(text: str) -> list[Message]:
    """Return the conversation in a document of `to_json`, or in a bare list of messages as OpenAI-style tools write.

    Raises:
        ConversationError: a sentence that says what is wrong with the file.
    """
    _check_size(text)
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError also for a number with thousands of digits
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        raise ConversationError(f"this is not valid JSON (line {line})", "json", line=line) from error
    if isinstance(document, list):
        return check_messages(document)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ConversationError(
            f"this JSON is not a saved conversation (no format {FORMAT!r})", "format", format=FORMAT
        )
    if document.get("version") != VERSION:
        version = repr(document.get("version"))[:40]
        raise ConversationError(
            f"version {version} is not known here, only {VERSION}", "version", version=version, known=VERSION
        )
    return check_messages(document.get("messages"))


def _check_size(text: str) -> None:
    if len(text) > MAX_IMPORT_CHARS:
        raise ConversationError(
            f"the file holds {len(text)} characters; at most {MAX_IMPORT_CHARS} are read",
            "size", count=len(text), limit=MAX_IMPORT_CHARS,
        )  # fmt: skip


# --- Markdown ----------------------------------------------------------------------------------------------

_HEADINGS: dict[Role, str] = {"user": "## User", "assistant": "## Assistant"}
_HEADING = r"## (User|Assistant)[ \t\r]*$"
_SECTION = re.compile("^" + _HEADING + r"\n?", re.MULTILINE)
# A line of a message that looks like a heading of ours, escaped or not, gets one more backslash in front. Markdown
# shows "\#" as "#", so the rendered text looks the same.
_LOOKS_LIKE_HEADING = re.compile(r"^(?=\\*" + _HEADING + ")", re.MULTILINE)
_ESCAPED_HEADING = re.compile(r"^\\(?=\\*" + _HEADING + ")", re.MULTILINE)


def to_markdown(messages: Sequence[Message]) -> str:
    """Return the conversation as Markdown, a heading for each message; `from_markdown` restores the messages."""
    return "".join(f"{_HEADINGS[message['role']]}\n\n{_escaped(message['content'])}\n\n" for message in messages)


def _escaped(content: str) -> str:
    return _LOOKS_LIKE_HEADING.sub(r"\\", content)


def from_markdown(text: str) -> list[Message]:
    """Return exactly the messages that `to_markdown` wrote, including headings, code fences and blank lines in them.

    A file that an editor has saved with Windows line ends or without its last blank lines can be read too.

    Raises:
        ConversationError: text before the first heading, or no heading at all.
    """
    _check_size(text)
    if re.match(r"\s*## \w+[ \t]*\r\n", text):  # `to_markdown` writes \n, so an editor has changed all line ends
        text = text.replace("\r\n", "\n")
    before, *sections = _SECTION.split(text)
    if before.strip() or not sections:
        raise ConversationError("a saved conversation starts with the line '## User' or '## Assistant'", "heading")
    return check_messages(
        [
            Message(role=_role(name), content=_ESCAPED_HEADING.sub("", _without_frame(body)))
            for name, body in zip(sections[::2], sections[1::2], strict=True)
        ]
    )


def _role(name: str) -> Role:
    return "user" if name == "User" else "assistant"


def _without_frame(body: str) -> str:
    """Return a section without the blank line before its text, and without the line end and blank line after it."""
    body = body.removeprefix("\n")
    return body.removesuffix("\n\n") if body.endswith("\n\n") else body.removesuffix("\n")
