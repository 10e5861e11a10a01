"""What the command line prints: marks for people, text and JSON for programs, nothing that a terminal obeys."""

import json
import unicodedata

import pytest

from glm_model.blank_filling import Answer, Blank, FilledText, FillResult, Segment
from glm_model.fill.output import Marks, all_beams, as_json, choose_marks, failure_as_json, marked
from tests.model.test_sanitize import HOSTILE


def filled(*parts: str, score: float | None = None) -> FilledText:
    """Given text and fillings in turn."""
    segments = tuple(Segment(part, index % 2 == 1) for index, part in enumerate(parts))
    return FilledText(segments, "".join(parts), score)


@pytest.mark.parametrize(
    ("marks", "shown"),
    [
        ("none", "The cat sat."),
        ("brackets", "The [cat] sat[]."),
        ("colour", "The \x1b[1;32mcat\x1b[0m sat\x1b[1;32m[]\x1b[0m."),
    ],
)
def test_fillings_are_marked(marks: Marks, shown: str) -> None:
    assert marked(filled("The ", "cat", " sat", "", "."), marks) == shown


@pytest.mark.parametrize(
    ("color", "is_terminal", "environment", "marks"),
    [
        ("auto", True, {"TERM": "xterm"}, "colour"),
        ("auto", True, {"TERM": "xterm", "NO_COLOR": "1"}, "brackets"),
        ("auto", True, {"TERM": "xterm", "NO_COLOR": ""}, "colour"),
        ("auto", True, {"TERM": "dumb"}, "brackets"),
        ("auto", False, {"TERM": "xterm"}, "none"),
        ("always", False, {"NO_COLOR": "1"}, "colour"),
        ("never", True, {"TERM": "xterm"}, "brackets"),
        ("never", False, {}, "none"),
    ],
)
def test_who_gets_which_marks(color: str, is_terminal: bool, environment: dict[str, str], marks: Marks) -> None:
    assert choose_marks(color, is_terminal, environment) == marks


def test_beams_are_lines_of_score_and_text() -> None:
    result = FillResult((filled("a ", "b", score=-0.25), filled("a ", "c", score=-1.5)), ())
    assert all_beams(result, "brackets") == "-0.2500\ta [b]\n-1.5000\ta [c]"
    assert all_beams(FillResult((filled("a ", "b\nc", score=-0.25),), ()), "none") == "-0.2500\ta b␊c"


def hostile_result(text: str) -> FillResult:
    blank = Blank((1, 2), (Answer(text, (7,), None, "stop"),))
    return FillResult((filled(text, text),), (blank,))


def is_obeyed(character: str) -> bool:
    return character not in "\n\t" and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("marks", ["none", "brackets", "colour"])
def test_no_text_is_obeyed(text: str, marks: Marks) -> None:
    shown = marked(hostile_result(text).texts[0], marks)
    own = shown.replace("\x1b[1;32m", "").replace("\x1b[0m", "") if marks == "colour" else shown
    assert not [character for character in own if is_obeyed(character)]


@pytest.mark.parametrize("text", [*HOSTILE, "你好 “quoted” \\ \n\t 👋"])
def test_json_is_harmless_and_loses_nothing(text: str) -> None:
    line = as_json(text, hostile_result(text))
    assert not [character for character in line if is_obeyed(character) or character == "\n"]
    read = json.loads(line)
    assert read["text"] == text
    assert read["filled"] == text + text
    assert read["segments"] == [{"text": text, "filling": False}, {"text": text, "filling": True}]
    assert read["blanks"][0]["answers"] == [{"text": text, "token_ids": [7], "score": None, "finish_reason": "stop"}]
    assert json.loads(failure_as_json(text, text)) == {"text": text, "error": text}


def test_json_leaves_chinese_readable() -> None:
    assert "你好" in as_json("你好", hostile_result("你好"))
