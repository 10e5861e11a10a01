"""Expand phrase patterns, split phrases into corpus and evaluation, and normalise prompts for comparison.

A hash of the text alone decides what is held out, so that the corpus and the evaluation always agree: the corpus drops
everything that `is_held_out` selects, and the evaluation uses nothing else.
"""

import hashlib
import itertools
import re
import unicodedata
from collections.abc import Iterable

HELD_OUT_PERCENT = 8
_KEPT_MARKS = "+-*/×÷="
_GROUP = re.compile(r"\(([^()]*\|[^()]*)\)")


def normalise(text: str) -> str:
    """Return the normal form of a text; prompts with equal normal forms count as the same.

    It is NFKC, case folded, and without white space and punctuation except arithmetic signs.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in folded if c in _KEPT_MARKS or unicodedata.category(c)[0] not in "PZC")


def is_held_out(*parts: object) -> bool:
    """Return whether a phrase or combination is held out for the evaluation: about 8%, the same on every machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % 100 < HELD_OUT_PERCENT


def expand(pattern: str) -> list[str]:
    """Return all phrases of a pattern with alternatives, not nested: ``"(Hi|Hello)( there|)"`` gives four."""
    pieces = _GROUP.split(pattern)
    choices: Iterable[list[str]] = (p.split("|") if i % 2 else [p] for i, p in enumerate(pieces))
    return ["".join(parts) for parts in itertools.product(*choices)]


def phrases(*patterns: str) -> list[str]:
    """Return the distinct phrases of several patterns, in order, without a comma in front from an empty alternative."""
    return list(
        dict.fromkeys(phrase.replace("，，", "，").lstrip("，, ") for pattern in patterns for phrase in expand(pattern))
    )
