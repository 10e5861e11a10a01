"""Phrase patterns, the held-out split, and the normal form in which prompts are compared.

What is held out is decided by a hash of the text alone, so the corpus and the evaluation can never disagree:
the corpus drops whatever `is_held_out` names, and the evaluation takes nothing else.
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
    """NFKC, case folded, without white space and punctuation except arithmetic signs: equal means "the same prompt"."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in folded if c in _KEPT_MARKS or unicodedata.category(c)[0] not in "PZC")


def is_held_out(*parts: object) -> bool:
    """Whether this phrase or combination is kept for the evaluation (about 8% of all, the same on every machine)."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % 100 < HELD_OUT_PERCENT


def expand(pattern: str) -> list[str]:
    """All phrases of a pattern with flat alternatives: ``"(Hi|Hello)( there|)"`` gives four."""
    pieces = _GROUP.split(pattern)
    choices: Iterable[list[str]] = (p.split("|") if i % 2 else [p] for i, p in enumerate(pieces))
    return ["".join(parts) for parts in itertools.product(*choices)]


def phrases(*patterns: str) -> list[str]:
    """The distinct phrases of several patterns, in order; a comma left in front by an empty choice is dropped."""
    return list(
        dict.fromkeys(phrase.replace("，，", "，").lstrip("，, ") for pattern in patterns for phrase in expand(pattern))
    )
