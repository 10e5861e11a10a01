"""No character of a model's text may be one that a terminal obeys."""

import unicodedata

import pytest

from glm_model.text.sanitize import harmless

HOSTILE = [
    "\x1b[2J\x1b[H",  # clear the screen
    "\x1b]0;title\x07",
    "\x1b]52;c;aGk=\x07",  # write the clipboard
    "\x1b]8;;http://evil\x1b\\click\x1b]8;;\x1b\\",  # hyperlink
    "\x1bP+q544e\x1b\\",  # device control string
    "\x1b[6n",  # ask for an answer that is typed into the shell
    "\x9b31m",  # the same introduced by one C1 character
    "\x9d0;title\x9c",
    "safe\rdangerous",
    "abc\b\b\bxyz",
    "bell\x07\x07",
    "\x0e\x0f\x00\x7f",
    "user\u202etxt.exe",
    "\u2066a\u2069\u200f\u061c",
    "hidden\U000e0041\U000e0042",
    "line\u2028separator\u2029",
    "half\ud83d",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_is_left_to_obey(text: str) -> None:
    shown = harmless(text)
    for character in shown:
        assert character == "\n" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def test_every_control_character_of_unicode_is_covered() -> None:
    everything = "".join(map(chr, range(0x110000)))
    left = {character for character in harmless(everything) if unicodedata.category(character) in ("Cc", "Cs")}
    assert left == {"\n", "\t"}
    assert not {c for c in harmless(everything) if unicodedata.bidirectional(c) in
                ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")}  # fmt: skip


@pytest.mark.parametrize(
    "text", ["", "你好，世界！", "tab\tand\nline", "naïve café", "👩‍👩‍👧 🇨🇳", "عربي עברית", "a\u0301", "x² ≤ y"]
)
def test_honest_text_is_left_alone(text: str) -> None:
    assert harmless(text) == text


def test_what_was_hidden_is_shown() -> None:
    assert harmless("\x1b[31mred\x00") == "␛[31mred␀"
    assert harmless("a\r\nb") == "a\nb"


@pytest.mark.parametrize("text", HOSTILE)
def test_a_stream_may_be_cut_anywhere(text: str) -> None:
    assert "".join(map(harmless, text)) == harmless(text)
