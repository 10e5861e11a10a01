"""The conversation format of ChatGLM-6B: pure functions of text.

A question stands alone; with a history every round is numbered from 0 and the last answer is left open:

    [Round 0]\\n问：{question}\\n答：{answer}\\n[Round 1]\\n问：{question}\\n答：

The model was trained with full-width colons and single line breaks (ChatGLM2 counts from 1 and doubles them).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

History = Sequence[Sequence[str]]


def build_prompt(query: str, history: History | None = None) -> str:
    """The prompt of the published `chat()`: `query` after the (question, answer) pairs of `history`."""
    if not history:
        return query
    rounds = [f"[Round {i}]\n问：{question}\n答：{answer}\n" for i, (question, answer) in enumerate(history)]
    return "".join(rounds) + f"[Round {len(rounds)}]\n问：{query}\n答："


# SentencePiece's normalisation turned full-width punctuation into ASCII; beside Chinese it is turned back.
_HANZI = "[\u4e00-\u9fff]"
_FULL_WIDTH = [
    (re.compile(rf"(?<={_HANZI})\{ascii_}|\{ascii_}(?={_HANZI})"), full_width)
    for ascii_, full_width in zip(",!:;?", "，！：；？", strict=True)
]


def process_response(response: str) -> str:
    """The published clean-up of an answer: stripped, the training date filled in, Chinese punctuation."""
    response = response.strip().replace("[[训练时间]]", "2023年")
    for punctuation, full_width in _FULL_WIDTH:
        response = punctuation.sub(full_width, response)
    return response
