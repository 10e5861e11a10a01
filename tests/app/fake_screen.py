"""A terminal in memory: rows, a cursor, wide characters, scrollback, windows that change their size.

It knows only the few codes that the program may send and refuses every other one, so that each test with it is
also a test that nothing else reaches a terminal.
"""

from __future__ import annotations

import re
import unicodedata
from typing import IO, Any, cast

from rich.console import Console

from app.terminal.markdown import THEME

_TOKEN = re.compile(r"\x1b\[[\d;]*m|\x1b\[A|\x1b\[2K|\x1b\[2J|\x1b\[H|\x1b.{0,3}|.", re.DOTALL)


def cells(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


class Screen:
    """Give it to a Console as its file."""

    def __init__(self, width: int = 60, height: int = 20) -> None:
        self.width, self.height = width, height
        self.rows = [""]
        self.goes_on = [False]  # whether the next row continues this one because it was full
        self.row = self.column = 0
        self.written: list[str] = []
        self.may_be_cleared = False

    def console(self, **settings: Any) -> Console:
        return Console(
            file=cast(IO[str], self), force_terminal=True, color_system="truecolor", legacy_windows=False, theme=THEME,
            width=self.width, height=self.height, markup=False, emoji=False, highlight=False, **settings,
        )  # fmt: skip

    def write(self, text: str) -> int:
        self.written.append(text)
        for token in _TOKEN.findall(text):
            self._obey(token)
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True

    def resize(self, width: int, height: int) -> None:
        """As terminals do that keep long lines whole; the cursor must be at the end of what was written."""
        lines = [""]
        for row, goes_on in zip(self.rows[: self.row + 1], self.goes_on, strict=False):
            lines[-1] += row
            if not goes_on:
                lines.append("")
        self.width, self.height = width, height
        self.rows, self.goes_on, self.row, self.column = [""], [False], 0, 0
        for character in "\n".join(lines[:-1]):
            self._obey(character)

    def text(self) -> str:
        """All that was shown, scrollback included, without spaces at the ends of rows."""
        return "\n".join(row.rstrip() for row in self.rows).rstrip("\n")

    def _obey(self, token: str) -> None:
        if token == "\n":
            self._next_row(goes_on=False)
        elif token == "\r":
            self.column = 0
        elif token == "\x1b[A":
            self.row = max(self.row - 1, len(self.rows) - self.height, 0)
        elif token == "\x1b[2K":
            self.rows[self.row], self.goes_on[self.row] = "", False
        elif self.may_be_cleared and token in ("\x1b[2J", "\x1b[H"):
            self.rows, self.goes_on, self.row, self.column = [""], [False], 0, 0
        elif not token.startswith("\x1b"):
            self._put(token)
        else:
            assert re.fullmatch(r"\x1b\[[\d;]*m", token), f"the terminal was sent {token!r}"

    def _put(self, character: str) -> None:
        assert unicodedata.category(character) not in ("Cc", "Cs"), f"the terminal was sent {character!r}"
        if self.column + cells(character) > self.width:
            self._next_row(goes_on=True)
        row = self.rows[self.row]
        assert sum(map(cells, row)) == self.column, "text was written over text"
        self.rows[self.row] = row + character
        self.column += cells(character)

    def _next_row(self, *, goes_on: bool) -> None:
        self.goes_on[self.row] = goes_on
        self.row, self.column = self.row + 1, 0
        if self.row == len(self.rows):
            self.rows.append("")
            self.goes_on.append(False)
