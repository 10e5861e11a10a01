"""Defines what blank filling returns: data for a terminal, a web page or a file, independent of a model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ..options import FinishReason


@dataclass(frozen=True)
class Answer:
    """The text that a model puts into a blank.

    Args:
        text: the answer's ids decoded without the text around them.
        token_ids: the ids without the end token.
        score: a beam's log-probability after the length penalty, higher is better; None for sampling.
        finish_reason: "stop" (the model ended the answer), "length" or "cancelled".
    """

    text: str
    token_ids: tuple[int, ...]
    score: float | None
    finish_reason: FinishReason


@dataclass(frozen=True)
class Blank:
    """One blank with its prompt and its answers.

    Args:
        prompt_ids: ids of the text, in which earlier blanks are filled, and ``<sop>``.
        answers: best first, one for each beam. ``answers[0]`` is in the text when the next blank is filled.
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
        decoded: the whole text decoded from its ids, with the tokenizer's spaces, as ``generate.py`` returns it.
        score: the score of the beam that filled the last blank; None for sampling.
        filled_by: for each filling among the segments, in order, the index of its blank in ``FillResult.blanks``. The
            indices are not ascending if several kinds of mask were filled, or if an answer held a mask itself.
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
    """The result of filling a text.

    Args:
        texts: the filled texts, best first. They differ in the answer to the last blank only; earlier blanks hold their
            best answer.
        blanks: every blank in the order of filling, with all its answers.
    """

    texts: tuple[FilledText, ...]
    blanks: tuple[Blank, ...]


@dataclass(frozen=True)
class FillStep:
    """The state of filling a text after a token.

    Args:
        blank: index of the blank being filled, in the order of filling.
        count: number of blanks known so far; an answer may add another.
        show: returns the text with the best answer so far in place; each call decodes the whole text.
        result: the result, on the last step; None before.
    """

    blank: int
    count: int
    show: Callable[[], FilledText]
    result: FillResult | None = None
