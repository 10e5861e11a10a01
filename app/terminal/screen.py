"""Shows an answer while it comes: `MarkdownView` in a terminal, `PlainView` in a pipe.

Finished blocks are printed once and scroll away like any output. Only the last, unfinished block is drawn again
when it grows, from the first line that changed and in one write, so that nothing flickers and the screen is
never cleared. Of a block taller than the window its end is shown until it is finished.
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
"""Text that arrives within this time after a drawing is drawn together with what follows it."""

_CODES = re.compile(r"\x1b\[[\d;]*m")
_MARKER = re.compile(r" {0,3}[-=*+#`~>|]{1,3} ?")


class View(Protocol):
    """Where an answer is shown."""

    def feed(self, text: str) -> None:
        """Show new text of the answer."""

    def close(self) -> None:
        """The answer has ended, or was stopped: leave it complete on the screen."""


class PlainView:
    """The answer as it is, and nothing else."""

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
    """The answer as Markdown with colours.

    Args:
        console: a terminal that understands cursor movements.
        placeholder: shown until the first text comes.
        pause: how to wait after a drawing; a test may not want to.
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
        """Takes the finished blocks out of the rest. Only whole lines count: "#" may still become "#1"."""
        whole, line_end, partial = self._rest.rpartition("\n")
        blocks, last = split(whole + line_end)
        self._rest = last + partial
        lines = self._lines(blocks)
        self._blocks_above = self._blocks_above or bool(lines)
        return lines

    def _lines(self, blocks: list[str]) -> list[str]:
        """The blocks with an empty line between them, and before them if others stand above."""
        drawn = [lines for block in blocks if (lines := render(block, self._console))]
        apart = [line for lines in drawn for line in ("", *lines)]
        return apart if self._blocks_above else apart[1:]

    def _height(self) -> int:
        return max(1, self._console.height - 1)

    def _draw(self, finished: list[str], unfinished: list[str]) -> None:
        """Replace what was unfinished. The cursor rests at the end of the last unfinished line."""
        lines = [*finished, *(unfinished or [""])]
        same = sum(
            1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self._drawn[:-1], lines[:-1], strict=False))
        )
        if lines != self._drawn:
            self._write(self._back_to(same) + "\n".join(lines[same:]))
        self._drawn = unfinished or [""]

    def _back_to(self, first: int) -> str:
        """The codes that erase the drawn lines from `first` on, in rows of the window as it is now.

        Row by row: some terminals take the erasing of all from the first row on for a new screen.
        """
        width = max(2, self._console.width)
        lines = [_CODES.sub("", line) for line in self._drawn[first:]]
        rows = sum(max(1, len(chop_cells(line, width))) for line in lines)
        return "\r\x1b[2K" + "\x1b[A\x1b[2K" * (min(rows, self._console.height) - 1)

    def _write(self, text: str) -> None:
        # Past rich's own buffer: the text is drawn already, and one write is what keeps it from flickering.
        self._console.file.write(text)
        self._console.file.flush()


def _blocks(text: str) -> list[str]:
    finished, last = split(text)
    return [*finished, last]


def _without_marker(text: str) -> str:
    """`text` without a last line that is only the beginning of some mark, such as a list's dash.

    Drawn at once, the dash would for a moment make a heading of the line above.
    """
    whole, line_end, partial = text.rpartition("\n")
    return whole + line_end if _MARKER.fullmatch(partial) else text
