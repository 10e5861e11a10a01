"""Define an exchange, which is a question with its answer, and make one from wordings."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from .grammar import is_held_out, normalise

Language = Literal["en", "zh"]
Round = tuple[str, str]


@dataclass(frozen=True)
class Exchange:
    """A question, the answer to learn, and every answer that counts as right.

    Attributes:
        category: its row in the table of the evaluation.
        language: the language of the question and the answer.
        question: the visitor's last message.
        answer: one of `accepted`.
        accepted: all complete answers that count as right.
        new_phrase: the wording is held out: the corpus never uses it, with any fact.
        new_combination: the combination of the wording with its facts (or the operands, or the name) is held out.
        history: the earlier rounds, oldest first.
        is_blank: the question is a text with a real [MASK] token, without the chat format and [gMASK].
    """

    category: str
    language: Language
    question: str
    answer: str
    accepted: tuple[str, ...]
    new_phrase: bool = False
    new_combination: bool = False
    history: tuple[Round, ...] = ()
    is_blank: bool = False

    @property
    def held_out(self) -> bool:
        """The exchange belongs to the evaluation and must not be in the corpus."""
        return self.new_phrase or self.new_combination

    def after(self, history: Sequence[Round]) -> "Exchange":
        """Return the exchange as the last round of a conversation."""
        return replace(self, history=(*history, *self.history))


Task = Callable[[random.Random, Language], Exchange]


def ask(
    rng: random.Random,
    category: str,
    language: Language,
    wordings: Sequence[str],
    answers: Sequence[str],
    *,
    combination: tuple[object, ...] | None = None,
    **slots: Any,
) -> Exchange:
    """Return an exchange with a random wording, whose ``{slots}`` are filled, and a random answer.

    Args:
        combination: the values that are held out together; by default the category and the question's normal form.
    """
    wording = rng.choice(wordings)
    question = wording.format(**slots)
    return Exchange(
        category=category,
        language=language,
        question=question,
        answer=rng.choice(answers),
        accepted=tuple(answers),
        new_phrase=not is_common(question) and is_held_out("wording", category, normalise(wording)),
        new_combination=not is_common(question) and is_held_out(*(combination or (category, normalise(question)))),
    )


# Frequent first messages are learnt as they are and never held out.
_COMMON = frozenset(
    normalise(text)
    for text in (
        "hi", "hello", "hello there", "hey", "how are you", "good morning", "good night", "bye", "goodbye", "help",
        "who are you", "what are you", "what can you do", "thanks", "thank you", "what is glm-130b", "what is my name",
        "tell me a joke", "你好", "您好", "嗨", "你好吗", "早上好", "晚安", "再见", "你是谁", "你叫什么名字",
        "你能做什么", "你会做什么", "谢谢", "glm-130b是什么", "什么是glm-130b", "我叫什么名字", "讲个笑话",
    )
)  # fmt: skip


def is_common(question: str) -> bool:
    """Return whether the question is one of the frequent first messages."""
    return normalise(question) in _COMMON
