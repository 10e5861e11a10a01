"""The files of the terminal: where the history and the log lie, saved conversations."""

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
    """Where the history and the log are kept (XDG base directories); None if there is no home."""
    base = environment.get("XDG_STATE_HOME") or environment.get("LOCALAPPDATA")
    if base and Path(base).is_absolute():
        return Path(base) / "glm-home"
    with suppress(RuntimeError):
        return Path.home() / ".local" / "state" / "glm-home"
    return None


def log_file() -> Path | None:
    """Where tracebacks go."""
    folder = state_folder()
    return folder / "terminal.log" if folder else None


def write(path: Path, messages: list[Message]) -> None:
    """Save a conversation, as Markdown if the name ends in .md; a crash leaves the old file whole.

    A link stays one, and a file keeps its mode.
    """
    text = to_markdown(messages) if path.suffix.lower() == ".md" else to_json(messages)
    target = Path(os.path.realpath(path))  # Path.resolve raises RuntimeError for links in a circle
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
    temporary = target.with_name(f".glm-{secrets.token_hex(8)}")
    try:
        with _new_file(temporary, 0o666 if mode is None else mode) as file:
            file.write(text.encode("utf-8"))
        if mode is not None:
            temporary.chmod(mode)  # with what the umask has taken
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _new_file(path: Path, mode: int) -> BinaryIO:
    """From its first byte on for nobody that `mode` and the umask keep out."""
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode))


def read(path: Path) -> list[Message]:
    """Load a conversation from JSON or Markdown, whatever its name. Raises ConversationError, OSError."""
    with path.open("rb") as file:
        data = file.read(MAX_IMPORT_BYTES + 1)
    if len(data) > MAX_IMPORT_BYTES:
        raise ConversationError(f"it is larger than {MAX_IMPORT_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConversationError("it is not a text in UTF-8") from error
    return from_file(text)
