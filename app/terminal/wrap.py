"""Break lines of mixed Chinese and English text.

Rich breaks lines only at spaces, which leaves a line half empty when a run of Chinese characters follows a word.
"""

from __future__ import annotations

import re

from rich.cells import cell_len, get_character_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

_OPENING = "（［｛「『【〔《〈“‘"
_CLOSING = "，。、；：？！）］｝」』】〕》〉”’…—"
_WIDE = (
    "\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\U00020000-\U0003fffd"
)
# A unit that is never broken: a wide character or a word, with the punctuation that must stay next to it.
_UNIT = re.compile(rf"[{_OPENING}]*(?:[{_WIDE}]|[^\s{_WIDE}{_OPENING}]+)?[{_CLOSING}]*\s*")


def breaks(line: str, width: int) -> list[int]:
    """Return the indices at which to break `line` so that no part is wider than `width` cells, less final spaces."""
    found, used = [], 0
    for unit in filter(re.Match[str].group, _UNIT.finditer(line)):
        cells = cell_len(unit.group().rstrip())
        if used and used + cells > width:
            found.append(unit.start())
            used = 0
        if cells > width:
            pieces, used = _pieces(unit.group(), width)
            found += [unit.start() + piece for piece in pieces]
        else:
            used += cell_len(unit.group())
    return found


def _pieces(word: str, width: int) -> tuple[list[int], int]:
    """Return the indices at which to cut a word that is wider than a line, and the width of its last piece in cells."""
    found, used = [], 0
    for index, character in enumerate(word):
        cells = get_character_cell_size(character)
        if used and used + cells > width:
            found.append(index)
            used = 0
        used += cells
    return found, used


class Wrapped:
    """A rich renderable of a text whose lines are broken by `breaks`."""

    def __init__(self, text: Text) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self._text.split("\n", allow_blank=True):
            line.expand_tabs(4)
            for part in line.divide(breaks(line.plain, max(1, options.max_width))):
                part.rstrip()
                part.no_wrap, part.overflow = True, "ignore"
                yield part

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        widest = max((cell_len(line) for line in self._text.plain.split("\n")), default=0)
        return Measurement(min(2, widest), widest).with_maximum(options.max_width)
