"""Formats the results of blank filling: marked text for people, plain text or JSON for programs.

No control character reaches the terminal, whether user or model wrote it: text shows a symbol in its place, JSON an
escape sequence, which loses nothing. This file uses no model.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Literal

from ..blank_filling import FilledText, FillResult, Segment
from ..text.sanitize import harmless

Marks = Literal["colour", "brackets", "none"]
"""How a filling is marked: in colour, in brackets or not at all."""

_GREEN, _PLAIN = "\x1b[1;32m", "\x1b[0m"


def choose_marks(color: str, is_terminal: bool, environment: Mapping[str, str]) -> Marks:
    """Return how fillings are marked.

    Args:
        color: "auto", "always" or "never".
        is_terminal: standard output is a terminal.
        environment: environment variables; NO_COLOR (https://no-color.org) and TERM=dumb turn off "auto".
    """
    can_color = is_terminal and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"
    if color == "always" or (color == "auto" and can_color):
        return "colour"
    return "brackets" if is_terminal else "none"


def marked(filled: FilledText, marks: Marks) -> str:
    """Return a filled text with its fillings marked."""
    return "".join(_marked_segment(segment, marks) for segment in filled.segments)


def _marked_segment(segment: Segment, marks: Marks) -> str:
    text = harmless(segment.text)
    if not segment.is_filling or marks == "none":
        return text
    if marks == "brackets":
        return f"[{text}]"
    return f"{_GREEN}{text or '[]'}{_PLAIN}"  # an empty filling would be invisible


def all_beams(result: FillResult, marks: Marks) -> str:
    """Return a line for each beam, best first: its score, a tab, its text."""
    return "\n".join(f"{text.score:.4f}\t{one_line(marked(text, marks))}" for text in result.texts)


def one_line(text: str) -> str:
    """Return a text as one line, with the symbol U+240A for each line break."""
    return text.replace("\n", "\u240a")


def as_json(text: str, result: FillResult) -> str:
    """Return all that is known of a filled text as one line of JSON.

    Keys: ``text`` as given, ``filled``, ``segments`` (text, filling), ``texts`` (text, score: one for each beam),
    ``blanks`` (``answers``, best first: text, token_ids, score, finish_reason).
    """
    best = result.texts[0]
    return _dumped(
        {
            "text": text,
            "filled": best.text,
            "segments": [{"text": segment.text, "filling": segment.is_filling} for segment in best.segments],
            "texts": [{"text": filled.text, "score": filled.score} for filled in result.texts],
            "blanks": [{"answers": [asdict(answer) for answer in blank.answers]} for blank in result.blanks],
        }
    )


def failure_as_json(text: str, error: str) -> str:
    """Return a text that could not be filled and the error as one line of JSON."""
    return _dumped({"text": text, "error": error})


def _dumped(value: object) -> str:
    # Characters that need an escape occur only inside JSON's strings.
    return "".join(map(_escaped, json.dumps(value, ensure_ascii=False)))


def _escaped(character: str) -> str:
    return character if harmless(character) == character else json.dumps(character)[1:-1]
