"""Fills the blanks of a text, by the rules of GLM-130B's ``generate.py``.

``fill_blanks`` returns the filled text, ``stream_blanks`` yields it token by token, ``write_blanks`` is its writer
for a batch. ``sampling`` and ``beam_search`` are the original's two strategies, ``answers`` runs one of them on one
blank, ``text`` chooses the next blank and puts its answer in place.
"""

from ..errors import FillError
from ..options import FillOptions
from .results import Answer, Blank, FilledText, FillResult, FillStep, Segment
from .text import MAX_BLANKS, BlankTokenizer, fill_blanks, stream_blanks, write_blanks

__all__ = [
    "MAX_BLANKS",
    "Answer",
    "Blank",
    "BlankTokenizer",
    "FillError",
    "FillOptions",
    "FillResult",
    "FillStep",
    "FilledText",
    "Segment",
    "fill_blanks",
    "stream_blanks",
    "write_blanks",
]
