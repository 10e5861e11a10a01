"""Read and write the terminal's files: saved conversations, and the paths of the history and the log."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from ..serving.conversation import MAX_IMPORT_BYTES, ConversationError, Message, from_file, to_json, to_markdown


def state_folder(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return the folder of the history and the log (XDG base directories), None if there is no home folder."""
    base = environment.get("XDG_STATE_HOME") or environment.get("LOCALAPPDATA")
    if base and Path(base).is_absolute():
        return Path(base) / "glm-home"
    with suppress(RuntimeError):
        return Path.home() / ".local" / "state" / "glm-home"
    return None


def log_file() -> Path | None:
    """Return the path of the log of tracebacks, None if there is no home folder."""
    folder = state_folder()
    return folder / "terminal.log" if folder else None


def write(path: Path, messages: list[Message]) -> None:
    """Write a conversation to a file, as Markdown if the name ends in .md, else as JSON.

    The text is written to a temporary file that then replaces the old one, so a crash leaves the old file complete. A
    symbolic link stays a link, and an existing file keeps its mode.
    """
    text = to_markdown(messages) if path.suffix.lower() == ".md" else to_json(messages)
    target = Path(os.path.realpath(path))  # Path.resolve raises RuntimeError for links in a circle
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
    temporary = target.with_name(f".glm-{secrets.token_hex(8)}")
    try:
        with _new_file(temporary, 0o666 if mode is None else mode) as file:
            file.write(text.encode("utf-8"))
        if mode is not None:
            temporary.chmod(mode)  # sets the bits that the umask has removed
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _new_file(path: Path, mode: int) -> BinaryIO:
    """Open a new file for writing, created with `mode` less the umask, so that others can never read its text."""
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode))


def read(path: Path) -> list[Message]:
    """Read a conversation from a JSON or Markdown file; the content decides the format, not the name.

    Raises:
        ConversationError: the file is too large, not UTF-8, or not a conversation.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(MAX_IMPORT_BYTES + 1)
    if len(data) > MAX_IMPORT_BYTES:
        raise ConversationError(f"it is larger than {MAX_IMPORT_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConversationError("it is not a text in UTF-8") from error
    return from_file(text)
