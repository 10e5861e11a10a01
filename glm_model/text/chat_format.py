r"""Format and clean up the conversations of ChatGLM-6B, with pure functions of text.

A question stands alone; with a history every round is numbered from 0 and the last answer is left open:

    [Round 0]\n问：{question}\n答：{answer}\n[Round 1]\n问：{question}\n答：

The model was trained with full-width colons and single line breaks (ChatGLM2 counts from 1 and doubles them).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import TokenizerError

History = Sequence[Sequence[str]]
"""(question, answer) rounds, the oldest first."""


def build_prompt(query: str, history: History | None = None) -> str:
    """Return the prompt of the published `chat()`: `query` after the (question, answer) pairs of `history`.

    Raises:
        TokenizerError: the query is no text, or the history is something else than pairs of texts.
    """
    if not isinstance(query, str):
        raise TokenizerError(f"the query must be a text, not {_described(query)}. {_MESSAGES}")
    _require_pairs(history)
    if not history:
        return query
    rounds = [f"[Round {i}]\n问：{question}\n答：{answer}\n" for i, (question, answer) in enumerate(history)]
    return "".join(rounds) + f"[Round {len(rounds)}]\n问：{query}\n答："


_MESSAGES = (
    "For messages with role and content use tokenizer.apply_chat_template(messages, add_generation_prompt=True)."
)


def _require_pairs(history: object) -> None:
    """Raise TokenizerError, which says what is there, unless a history is None or pairs of texts."""
    if history is None:
        return
    wanted = "the history must be pairs of texts, [(question, answer), ...]"
    if not isinstance(history, list | tuple):
        raise TokenizerError(f"{wanted}; this is {_described(history)}. {_MESSAGES}")
    for number, pair in enumerate(history):
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise TokenizerError(f"{wanted}; entry {number} is {_described(pair)}. {_MESSAGES}")


def _described(value: object) -> str:
    if isinstance(value, dict):
        return f"a dict with {', '.join(map(repr, list(value)[:3]))}" if value else "an empty dict"
    if isinstance(value, list | tuple):
        kinds = ", ".join(type(each).__name__ for each in value[:3]) + (", ..." if len(value) > 3 else "")
        return f"a {type(value).__name__} of {len(value)} ({kinds})" if value else f"an empty {type(value).__name__}"
    return "a text" if isinstance(value, str) else f"of type {type(value).__name__}"


# SentencePiece's normalisation turns full-width punctuation into ASCII; next to Chinese characters it is turned back.
_HANZI = "[\u4e00-\u9fff]"
_PUNCTUATION = ",!:;?"
_FULL_WIDTH = [
    (ascii_, re.compile(rf"(?<={_HANZI})\{ascii_}|\{ascii_}(?={_HANZI})"), full_width)
    for ascii_, full_width in zip(_PUNCTUATION, "，！：；？", strict=True)
]


_UNDECIDED = re.compile(rf"(?<!{_HANZI})[{_PUNCTUATION}]$")
# The placeholder that the model writes for the date of its training, and the text that the published code shows for it.
_TRAINING_DATE, _SHOWN_DATE = "[[训练时间]]", "2023年"


def process_response(response: str) -> str:
    """Return an answer cleaned up as published: stripped, with the training date and with Chinese punctuation."""
    return _with_full_width(response.strip().replace(_TRAINING_DATE, _SHOWN_DATE))


def _with_full_width(text: str) -> str:
    for ascii_, beside_hanzi, full_width in _FULL_WIDTH:
        if ascii_ in text:  # a hundred times as fast as the search
            text = beside_hanzi.sub(full_width, text)
    return text


class ResponseStream:
    """`process_response` for an answer that arrives in pieces; the returned pieces join to its result.

    Text is held back only if the next piece decides how it is shown: white space that may be the end of the answer, a
    punctuation mark whose right neighbour is unknown, and a possible beginning of the training date.
    """

    def __init__(self) -> None:
        self._held = ""
        self._before = ""  # the character in front of what is held

    def push(self, text: str) -> str:
        """Add text, and return the new text that can be shown; it may be empty."""
        self._held = (self._held + text).replace(_TRAINING_DATE, _SHOWN_DATE)
        if not self._before:
            self._held = self._held.lstrip()
        return self._release(self._settled())

    def finish(self) -> str:
        """Return the rest of the text at the end of the answer."""
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
