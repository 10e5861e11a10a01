"""What blank filling returns: data for a terminal, a web page or a file. Knows no model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ..options import FinishReason


@dataclass(frozen=True)
class Answer:
    """What a model puts into a blank.

    Args:
        text: the answer decoded on its own.
        token_ids: without the end token.
        score: a beam's log-probability after the length penalty, higher is better; None for sampling.
        finish_reason: "stop" (the model ended), "length" or "cancelled".
    """

    text: str
    token_ids: tuple[int, ...]
    score: float | None
    finish_reason: FinishReason


@dataclass(frozen=True)
class Blank:
    """One blank as the model saw it.

    Args:
        prompt_ids: the text with the blanks before it filled, and ``<sop>``.
        answers: best first, as many as there are beams. The next blank is filled after ``answers[0]``.
    """

    prompt_ids: tuple[int, ...]
    answers: tuple[Answer, ...]


class Segment(NamedTuple):
    """A part of a filled text: a filling, which may be empty, or the text around it as it was given."""

    text: str
    is_filling: bool


@dataclass(frozen=True)
class FilledText:
    """A text with its blanks filled.

    Args:
        segments: the given text, unchanged, and the fillings, in order; for highlighting.
        decoded: the whole as ``generate.py`` answers it: decoded from ids, so with the tokenizer's spaces.
        score: of the beam that filled the last blank; None for sampling.
        filled_by: of each filling among the segments, in order, the index in ``FillResult.blanks`` of its blank. They
            do not count up where several kinds of mask were filled, or where an answer held a mask itself.
    """

    segments: tuple[Segment, ...]
    decoded: str
    score: float | None
    filled_by: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """The given text with the fillings in place."""
        return "".join(segment.text for segment in self.segments)


@dataclass(frozen=True)
class FillResult:
    """What became of a text.

    Args:
        texts: best first. They differ in the blank filled last; the blanks before hold their best answer in each.
        blanks: every blank in the order of filling, with all its answers.
    """

    texts: tuple[FilledText, ...]
    blanks: tuple[Blank, ...]


@dataclass(frozen=True)
class FillStep:
    """Where the filling of a text stands after a token.

    Args:
        blank: index of the blank being filled, in the order of filling.
        count: blanks of the text as far as is known: an answer may bring another.
        show: the text with the best answer so far in its place; costs a decoding of the whole text.
        result: on the last step.
    """

    blank: int
    count: int
    show: Callable[[], FilledText]
    result: FillResult | None = None
