"""One question with its answer, and how a task makes one."""

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
        category: the row of the evaluation's table.
        language: of the question, and so of the answer.
        question: the last thing the visitor says.
        answer: one of `accepted`.
        accepted: the complete answers that are right; a judge asks for equality.
        new_phrase: the wording is never used in the corpus, with no fact at all.
        new_combination: this wording with these facts (or these operands, this name) is never used in the corpus.
        history: the rounds before, oldest first.
        is_blank: the question is a text whose "[MASK]" is the blank itself, without chat prompt and [gMASK].
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
        """Whether it belongs to the evaluation and must stay out of the corpus."""
        return self.new_phrase or self.new_combination

    def after(self, history: Sequence[Round]) -> "Exchange":
        """The same exchange as the last round of a conversation."""
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
    """An exchange with a wording drawn at random and its ``{slots}`` filled.

    Args:
        combination: what is held out as a whole; by default the question's normal form.
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


# What every visitor types first is learnt as it is, never held out.
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
    """Whether this is one of the things that everybody types first."""
    return normalise(question) in _COMMON
