"""Filling the blanks of a text, as GLM-130B's ``generate.py`` does: what ChatGLM's chat does not show.

``fill_blanks`` is the door, ``stream_blanks`` the same token by token; ``sampling`` and ``beam_search`` hold the
original's two strategies, ``answers`` runs one of them on one blank, ``text`` knows which blank comes next and where
its answer goes.
"""

from ..errors import FillError
from ..options import FillOptions
from .results import Answer, Blank, FilledText, FillResult, FillStep, Segment
from .text import MAX_BLANKS, BlankTokenizer, fill_blanks, stream_blanks

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
]
