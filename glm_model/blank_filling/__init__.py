"""Filling the blanks of a text, as GLM-130B's ``generate.py`` does: what ChatGLM's chat does not show.

``fill_blanks`` is the door; ``sampling`` and ``beam_search`` hold the original's two strategies, ``answers`` runs one
of them on one blank, ``text`` knows which blank comes next and where its answer goes.
"""

from .options import FillOptions
from .results import Answer, Blank, FilledText, FillResult, Segment
from .text import MAX_BLANKS, BlankTokenizer, fill_blanks

__all__ = [
    "MAX_BLANKS",
    "Answer",
    "Blank",
    "BlankTokenizer",
    "FillOptions",
    "FillResult",
    "FilledText",
    "Segment",
    "fill_blanks",
]
