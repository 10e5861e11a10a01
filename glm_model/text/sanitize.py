"""Make text from a model or a file harmless to a terminal.

This is a pure function of each character, so that a stream can be cut anywhere: no escape sequence survives, because
its first character does not.
"""

from __future__ import annotations

_REPLACEMENT = "\ufffd"
# Reordering (CVE-2021-42574): text must be read in the order in which it was written.
_BIDI = [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_SURROGATES = range(0xD800, 0xE000)
# Characters of no width that spell invisible text.
_TAGS = range(0xE0000, 0xE0080)

_TABLE: dict[int, str | None] = {
    **{code: chr(0x2400 + code) for code in range(0x20)},  # shown by its picture: ESC as ␛
    0x7F: "\u2421",
    **dict.fromkeys(range(0x80, 0xA0), _REPLACEMENT),
    **dict.fromkeys(_BIDI, _REPLACEMENT),
    **dict.fromkeys(_SURROGATES, _REPLACEMENT),
    **dict.fromkeys(_TAGS, None),
    ord("\n"): "\n",
    ord("\t"): "\t",
    ord("\r"): None,  # of a Windows line end nothing is lost; alone it would overwrite its line
    0x2028: "\n",
    0x2029: "\n",
}


def harmless(text: str) -> str:
    """`text` with nothing in it that a terminal would obey: controls, escapes, reordering, half characters.

    New lines and tabs stay. A control character becomes its picture (ESC is shown as ␛), so that what the
    model wrote is not hidden.
    """
    return text.translate(_TABLE)
