"""Make text from a model or a file harmless to a terminal.

Each character is replaced independently of the others, so a stream can be cut anywhere. No escape sequence remains,
because its first character is always replaced.
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
    """Return `text` without characters that control a terminal: controls, escapes, reordering marks, surrogates.

    New lines and tabs stay. A control character becomes its picture (ESC is shown as ␛), so that the reader sees that
    it was there.
    """
    return text.translate(_TABLE)
