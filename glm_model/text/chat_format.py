r"""The conversation format of ChatGLM-6B: pure functions of text.

A question stands alone; with a history every round is numbered from 0 and the last answer is left open:

    [Round 0]\n问：{question}\n答：{answer}\n[Round 1]\n问：{question}\n答：

The model was trained with full-width colons and single line breaks (ChatGLM2 counts from 1 and doubles them).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

History = Sequence[Sequence[str]]
"""(question, answer) rounds, the oldest first."""


def build_prompt(query: str, history: History | None = None) -> str:
    """The prompt of the published `chat()`: `query` after the (question, answer) pairs of `history`."""
    if not history:
        return query
    rounds = [f"[Round {i}]\n问：{question}\n答：{answer}\n" for i, (question, answer) in enumerate(history)]
    return "".join(rounds) + f"[Round {len(rounds)}]\n问：{query}\n答："


# SentencePiece's normalisation turned full-width punctuation into ASCII; beside Chinese it is turned back.
_HANZI = "[\u4e00-\u9fff]"
_PUNCTUATION = ",!:;?"
_FULL_WIDTH = [
    (ascii_, re.compile(rf"(?<={_HANZI})\{ascii_}|\{ascii_}(?={_HANZI})"), full_width)
    for ascii_, full_width in zip(_PUNCTUATION, "，！：；？", strict=True)
]


_UNDECIDED = re.compile(rf"(?<!{_HANZI})[{_PUNCTUATION}]$")
# What the model was taught to write for the date of its training, and what the published code shows.
_TRAINING_DATE, _SHOWN_DATE = "[[训练时间]]", "2023年"


def process_response(response: str) -> str:
    """The published clean-up of an answer: stripped, the training date filled in, Chinese punctuation."""
    return _with_full_width(response.strip().replace(_TRAINING_DATE, _SHOWN_DATE))


def _with_full_width(text: str) -> str:
    for ascii_, beside_hanzi, full_width in _FULL_WIDTH:
        if ascii_ in text:  # a hundred times as fast as the search
            text = beside_hanzi.sub(full_width, text)
    return text


class ResponseStream:
    """`process_response` of an answer that comes in pieces: the pieces given out join to it.

    Held back is only what the next piece decides: white space that may be the last, a punctuation mark whose right
    neighbour is not known, the beginning of the training date.
    """

    def __init__(self) -> None:
        self._held = ""
        self._before = ""  # the character in front of what is held

    def push(self, text: str) -> str:
        """The new text that can be shown; may be empty."""
        self._held = (self._held + text).replace(_TRAINING_DATE, _SHOWN_DATE)
        if not self._before:
            self._held = self._held.lstrip()
        return self._release(self._settled())

    def finish(self) -> str:
        """The rest."""
        self._held = self._held.rstrip()
        return self._release(len(self._held))

    def _settled(self) -> int:
        end = len(self._held.rstrip())
        for length in range(min(len(_TRAINING_DATE) - 1, end), 0, -1):
            if _TRAINING_DATE.startswith(self._held[end - length : end]):
                end -= length
                break
        return end - 1 if end and _UNDECIDED.search(self._before + self._held[:end]) else end

    def _release(self, end: int) -> str:
        if end == 0:
            return ""
        start = len(self._before)
        in_context = _with_full_width(self._before + self._held[: end + 1])
        self._before, self._held = self._held[end - 1], self._held[end:]
        return in_context[start : start + end]
