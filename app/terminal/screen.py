"""Show an answer while it is generated: `MarkdownView` in a terminal, `PlainView` in a pipe.

Finished Markdown blocks are printed once and scroll away like any output. Only the last, unfinished block is redrawn
when it grows. Redrawing starts at the first changed line and takes one write, so that nothing flickers and the screen
is never cleared. If the unfinished block is taller than the window, only its end is shown until it is finished.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from itertools import takewhile
from typing import IO, Protocol

from rich.cells import chop_cells
from rich.console import Console

from glm_model.text.sanitize import harmless

from .markdown import render, split

SECONDS_PER_DRAWING = 0.04
"""The pause after each drawing. Text that arrives during it is drawn together with the next text."""

_CODES = re.compile(r"\x1b\[[\d;]*m")
_MARKER = re.compile(r" {0,3}[-=*+#`~>|]{1,3} ?")


class View(Protocol):
    """A place where an answer is shown."""

    def feed(self, text: str) -> None:
        """Show new text of the answer."""

    def close(self) -> None:
        """Finish the display after the answer has ended or was stopped; its whole text stays on the screen."""


class PlainView:
    """A view that writes the answer's text to a file without colours or Markdown."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._last = "\n"

    def feed(self, text: str) -> None:
        if text:
            self._file.write(harmless(text))
            self._file.flush()
            self._last = text[-1]

    def close(self) -> None:
        if self._last != "\n":
            self._file.write("\n")
            self._file.flush()


class MarkdownView:
    """A view that renders the answer as Markdown with colours.

    Args:
        console: a terminal that understands cursor movements.
        placeholder: shown until the first text comes.
        pause: waits the given number of seconds after a drawing; tests replace it.
    """

    def __init__(self, console: Console, *, placeholder: str = "", pause: Callable[[float], None] = time.sleep) -> None:
        self._console = console
        self._pause = pause
        self._rest = ""  # text of the unfinished block
        self._blocks_above = False
        self._drawn = [""]  # the unfinished lines as they stand on the screen, the cursor at their end
        self._draw([], [placeholder] if placeholder else [])

    def feed(self, text: str) -> None:
        if not text:
            return
        self._rest += harmless(text)
        finished = self._finished_lines()
        self._draw(finished, self._lines(_blocks(_without_marker(self._rest)))[-self._height() :])
        self._pause(SECONDS_PER_DRAWING)

    def close(self) -> None:
        self._draw(self._lines(_blocks(self._rest)), [])
        self._rest = ""

    def _finished_lines(self) -> list[str]:
        """Remove the finished blocks from the rest and return their lines. A last line without an end stays."""
        whole, line_end, partial = self._rest.rpartition("\n")
        blocks, last = split(whole + line_end)
        self._rest = last + partial
        lines = self._lines(blocks)
        self._blocks_above = self._blocks_above or bool(lines)
        return lines

    def _lines(self, blocks: list[str]) -> list[str]:
        """Return the lines of the blocks, an empty line between them, and one before if blocks stand above."""
        drawn = [lines for block in blocks if (lines := render(block, self._console))]
        apart = [line for lines in drawn for line in ("", *lines)]
        return apart if self._blocks_above else apart[1:]

    def _height(self) -> int:
        return max(1, self._console.height - 1)

    def _draw(self, finished: list[str], unfinished: list[str]) -> None:
        """Replace the unfinished lines. The cursor stays at the end of the last unfinished line."""
        lines = [*finished, *(unfinished or [""])]
        same = sum(
            1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self._drawn[:-1], lines[:-1], strict=False))
        )
        if lines != self._drawn:
            self._write(self._back_to(same) + "\n".join(lines[same:]))
        self._drawn = unfinished or [""]

    def _back_to(self, first: int) -> str:
        """Return the codes that erase the drawn lines from `first` on, for the window's present width.

        They erase row by row, since some terminals treat "erase all below the first row" as a new screen.
        """
        width = max(2, self._console.width)
        lines = [_CODES.sub("", line) for line in self._drawn[first:]]
        rows = sum(max(1, len(chop_cells(line, width))) for line in lines)
        return "\r\x1b[2K" + "\x1b[A\x1b[2K" * (min(rows, self._console.height) - 1)

    def _write(self, text: str) -> None:
        # Bypasses rich's buffer: the text is rendered already, and a single write prevents flickering.
        self._console.file.write(text)
        self._console.file.flush()


def _blocks(text: str) -> list[str]:
    finished, last = split(text)
    return [*finished, last]


def _without_marker(text: str) -> str:
    """Return `text` without a last line that is only the start of a Markdown mark, such as a list's dash.

    If it were drawn, the dash would turn the line above into a heading until more text arrives.
    """
    whole, line_end, partial = text.rpartition("\n")
    return whole + line_end if _MARKER.fullmatch(partial) else text
