"""The corpus: what proportion of what, conversations, the text for blank infilling, and the evaluation's questions.

Everything follows from a seed. The corpus holds no held-out exchange in any round; the evaluation holds nothing else.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from .exchange import Exchange, Language, Round, Task
from .grammar import normalise
from .tasks import about, arithmetic, blanks, chitchat, fallback, first_words, knowledge, memory, repeating

LANGUAGES: tuple[Language, ...] = ("en", "zh")
LONGEST_HISTORY = 7


@dataclass(frozen=True)
class Mixture:
    """What proportion of what.

    Attributes:
        tasks: weight of each task among single questions.
        blanks: share, of all instructions, of blanks to fill.
        memory: share of conversations about the visitor.
        follow_up: how many of the other questions are asked within a conversation.
        any_preference: how often something said of the visitor is a preference for just anything.
        visitor: share of those conversations in which the visitor has said something of themselves.
        noting: share of things said of the visitor, alone or after another, that are to be acknowledged.
    """

    tasks: Mapping[Task, float]
    blanks: float
    memory: float
    follow_up: float
    any_preference: float = 0.0
    visitor: float = 0.0
    noting: float = 0.0


# First the skills that take longest, arithmetic above all; later the conversations.
FIRST = Mixture(
    tasks={
        arithmetic.addition: 18,
        arithmetic.subtraction: 16,
        arithmetic.multiplication: 4,
        arithmetic.counting: 6,
        chitchat.greeting: 4,
        chitchat.thanks: 2,
        chitchat.goodbye: 2,
        chitchat.small_talk: 5,
        about.identity: 5,
        about.glm_facts: 5,
        knowledge.capital: 6,
        knowledge.opposite: 6,
        knowledge.translation: 8,
        knowledge.calendar: 6,
        repeating.repeating: 6,
        fallback.fallback: 14,
        blanks.chat_blank: 4,
    },
    blanks=0.08,
    memory=0.15,
    follow_up=0.09,
)
SECOND = Mixture(
    tasks={
        **FIRST.tasks,
        first_words.first_words: 8,
        first_words.commonest_words: 4,
        arithmetic.bare_sum: 5,
        arithmetic.subtraction: 20,
        chitchat.small_talk: 7,
        about.identity: 6,
        about.glm_facts: 6,
        knowledge.calendar: 8,
        blanks.chat_blank: 7,
    },
    blanks=0.08,
    memory=0.24,
    follow_up=0.12,
    any_preference=0.4,
)
# Last what an earlier model was weak at, above all what nobody could guess: sums, rare facts, words to be copied.
THIRD = Mixture(
    tasks={
        **SECOND.tasks,
        first_words.commonest_words: 10,
        arithmetic.bare_sum: 9,
        knowledge.capital: 10,
        knowledge.opposite: 9,
        knowledge.translation: 11,
        chitchat.small_talk: 9,
        chitchat.thanks: 3,
        chitchat.goodbye: 3,
        blanks.chat_blank: 10,
    },
    blanks=0.06,
    memory=0.3,
    follow_up=0.14,
    any_preference=0.5,
)
# What was still weak after that: gaps typed into the chat, words to say back, GLM-130B in detail; ...
FOURTH = Mixture(
    tasks={
        **THIRD.tasks,
        blanks.chat_blank: 45,
        repeating.repeating: 32,
        about.glm_facts: 13,
        fallback.fallback: 16,
        chitchat.small_talk: 10,
    },
    blanks=0.05,
    memory=0.2,
    follow_up=0.1,
    any_preference=0.5,
)
# ... the same with more small talk; ...
FIFTH = replace(
    FOURTH,
    tasks={
        **THIRD.tasks,
        blanks.chat_blank: 42,
        repeating.repeating: 34,
        about.glm_facts: 16,
        chitchat.small_talk: 26,
        chitchat.greeting: 6,
        chitchat.thanks: 5,
        fallback.fallback: 18,
    },
    memory=0.17,
)
# ... and on from there with more of what was nearly right.
SIXTH = replace(
    FIFTH,
    tasks={
        **FIFTH.tasks,
        arithmetic.counting: 14,
        knowledge.opposite: 16,
        knowledge.calendar: 11,
        blanks.chat_blank: 44,
    },
)
# At the end what people do with such a model: tell it two things in a row, go on to something else, say thanks, and
# type sums as on a calculator, also too large ones.
SEVENTH = replace(
    SIXTH,
    tasks={
        **SIXTH.tasks,
        first_words.commonest_words: 16,
        chitchat.thanks: 8,
        chitchat.goodbye: 6,
        arithmetic.bare_sum: 24,
        fallback.bare_sum_too_large: 12,
        fallback.fallback: 20,
    },
    blanks=0.07,
    memory=0.2,
    follow_up=0.3,
    visitor=0.6,
    noting=0.08,
)
# The same with longer things to say back, for the characters that were too rare to be copied.
EIGHTH = replace(SEVENTH, tasks={**SEVENTH.tasks, repeating.dictation: 70, arithmetic.bare_sum: 12})
TASKS = tuple(FIRST.tasks)
_SEED = "glm-demo"


def task_of(rng: random.Random) -> Task:
    """A task by its weight in the first mixture."""
    return _task(rng, FIRST)


def _task(rng: random.Random, mixture: Mixture) -> Task:
    return rng.choices(list(mixture.tasks), weights=list(mixture.tasks.values()))[0]


def exchanges(seed: int, count: int, mixture: Mixture = FIRST) -> Iterator[Exchange]:
    """The instruction part of the corpus: questions with answers, in conversations or alone. Nothing held out."""
    for index in range(count):
        rng = random.Random(f"{_SEED}/{seed}/exchange/{index}")
        yield _exchange(rng, mixture)


def texts(seed: int, count: int) -> Iterator[str]:
    """The self-supervised part: a few statements, or the transcript of a conversation. Nothing held out."""
    for index in range(count):
        rng = random.Random(f"{_SEED}/{seed}/text/{index}")
        yield _statements(rng) if rng.random() < 0.7 else _transcript(rng)


def _exchange(rng: random.Random, mixture: Mixture) -> Exchange:
    language = rng.choice(LANGUAGES)
    kind = rng.random()
    if kind < mixture.blanks:
        return draw(blanks.fill_blank, rng, language)
    if kind < mixture.blanks + mixture.memory:
        return vary(remembering(rng, language, held_out=False, any_preference=mixture.any_preference), rng)
    if kind < mixture.blanks + mixture.memory + mixture.noting:
        return vary(draw(noting, rng, language), rng)
    exchange = vary(draw(_task(rng, mixture), rng, language), rng)
    if rng.random() < mixture.follow_up:
        if mixture.visitor and rng.random() < mixture.visitor:
            return exchange.after(telling(rng, language, rng.choice((1, 1, 2))))
        return exchange.after(history(rng, language, _history_length(rng)))
    return exchange


def draw(task: Task, rng: random.Random, language: Language, *, held_out: bool = False) -> Exchange:
    """An exchange of the task from the corpus' side of the split, or from the evaluation's."""
    while True:
        exchange = task(rng, language)
        if exchange.held_out == held_out:
            return exchange


def _history_length(rng: random.Random) -> int:
    return min(LONGEST_HISTORY, 1 + int(rng.expovariate(0.9)))


def history(rng: random.Random, language: Language, rounds: int) -> list[Round]:
    """Rounds of questions and right answers from the corpus, seldom in the other language."""
    done: list[Round] = []
    for _ in range(rounds):
        if rng.random() < 0.1:
            language = rng.choice(LANGUAGES)
        exchange = vary(draw(task_of(rng), rng, language), rng)
        done.append((exchange.question, exchange.answer))
    return done


_ABOUT_VISITOR: tuple[Callable[[random.Random, Language], memory.Told], ...] = (
    memory.name, memory.name, memory.name, memory.like, memory.favourite,
)  # fmt: skip

_ANYTHING = (memory.any_like, memory.any_favourite)


def remembering(rng: random.Random, language: Language, *, held_out: bool, any_preference: float = 0.0) -> Exchange:
    """A conversation in which the visitor says something of themselves and may ask for it later.

    Corpus side: also the statement alone (to be acknowledged) and the question too early (not known yet).
    Evaluation side: always the question after a held-out statement.
    """
    if not held_out and rng.random() < 0.16:
        return _introduction(rng, language)
    first = _told(rng, language, held_out, any_preference)
    rounds = history(rng, language, rng.choice((0, 0, 0, 0, 1, 1, 1, 2, 3)))
    told = [first]
    while rng.random() < 0.35 and len(told) < 3:
        told.append(_another(rng, language, told, any_preference))
    for fact in told:
        statement = vary(fact.statement, rng)
        rounds.insert(rng.randint(0, len(rounds)), (statement.question, statement.answer))
    if held_out or rng.random() < 0.82:
        asked = first if held_out else rng.choice(told)
        return asked.question.after(rounds)
    return _another(rng, language, told).unknown.after(rounds)


def _told(rng: random.Random, language: Language, held_out: bool, any_preference: float = 0.0) -> memory.Told:
    """Something said: on the evaluation's side with a held-out name or like, whatever the wording."""
    while True:
        told = _said(rng, language, any_preference)
        if held_out and told.question.new_combination:
            return told
        if not held_out and not (told.statement.held_out or told.question.held_out or told.unknown.held_out):
            return told


def _said(rng: random.Random, language: Language, any_preference: float) -> memory.Told:
    anything = any_preference and rng.random() < any_preference
    return rng.choice(_ANYTHING if anything else _ABOUT_VISITOR)(rng, language)


def _another(
    rng: random.Random, language: Language, told: list[memory.Told], any_preference: float = 0.0
) -> memory.Told:
    """Something of which nothing has been said yet (each question can then have one answer only)."""
    taken = {fact.unknown.answer for fact in told}
    while True:
        another = _told(rng, language, False, any_preference)
        if another.unknown.answer not in taken:
            return another


def _introduction(rng: random.Random, language: Language) -> Exchange:
    """The statement alone, or a name and a like in one breath."""
    if rng.random() < 0.5:
        told = _told(rng, language, held_out=False)
        rounds = history(rng, language, rng.choice((0, 0, 1)))
        return told.statement.after(rounds)
    who, what, said, held_out = memory.combined(rng, language)
    if held_out or any(e.held_out for told in (who, what) for e in (told.statement, told.question)):
        return _introduction(rng, language)
    if rng.random() < 0.3:
        return replace(who.statement, question=said[0], answer=said[1], accepted=(said[1],))
    return rng.choice((who, what)).question.after([said, *history(rng, language, rng.choice((0, 0, 1)))])


_ANY_PREFERENCE = 0.4


def noting(rng: random.Random, language: Language) -> Exchange:
    """Something that the visitor says of themselves, alone or after another thing, to be acknowledged."""
    told = _said(rng, language, _ANY_PREFERENCE)
    return told.statement.after(telling(rng, language, rng.choice((0, 1, 1, 2)), told))


def telling(rng: random.Random, language: Language, facts: int, *known: memory.Told) -> list[Round]:
    """Rounds in which the visitor says `facts` things of themselves, and may ask for them at once; none is `known`."""
    rounds = history(rng, language, rng.choice((0, 0, 0, 1)))
    told = list(known)
    for _ in range(facts):
        told.append(_another(rng, language, told, _ANY_PREFERENCE))
        asked = rng.random() < 0.4
        for exchange in (told[-1].statement, told[-1].question)[: 1 + asked]:
            varied = vary(exchange, rng)
            rounds.append((varied.question, varied.answer))
    return rounds


def _statements(rng: random.Random) -> str:
    language = rng.choice(LANGUAGES)
    made: list[str] = []
    while len(made) < rng.randint(1, 5):
        statement = blanks.statement(rng, language)
        if not statement.held_out:
            made.append(statement.text)
    return (" " if language == "en" else "").join(made)


def _transcript(rng: random.Random) -> str:
    rounds = history(rng, rng.choice(LANGUAGES), rng.randint(2, 4))
    return "\n".join(f"[Round {i}]\n问：{question}\n答：{answer}" for i, (question, answer) in enumerate(rounds))


_OPERATOR = re.compile(r"(?<=[0-9]) ([-+*×x/÷=]) (?=[0-9?])")
_MARKS = str.maketrans({"？": "?", "，": ",", "：": ":", "！": "!", "。": "."})
_OPENERS = {
    "en": ("Hi, ", "Hello, ", "Please, ", "OK, ", "And ", "Hello! ", "Now, ", "Thanks. "),
    "zh": ("你好，", "那么，", "好的，", "你好！", "谢谢。", "现在，", "嗯，", "那"),
}
_OPENED = {"addition", "subtraction", "multiplication", "counting", "capitals", "opposites", "translation", "calendar",
           "fallback", "GLM-130B"}  # fmt: skip

# The answer repeats words of the question, so their case matters.
_COPIED = ("name", "preference", "repeating", "gap in chat")


def vary(exchange: Exchange, rng: random.Random) -> Exchange:
    """The question as different people type it: case, marks, spaces, an opening word. The answer stays."""
    question = exchange.question
    if exchange.category in _OPENED and rng.random() < 0.08:
        question = rng.choice(_OPENERS[exchange.language]) + question
    if rng.random() < 0.3:
        question = question.rstrip("?.!？。！") or question
    if rng.random() < 0.4:
        question = _OPERATOR.sub(r"\1", question)
    if exchange.language == "zh":
        return replace(exchange, question=_vary_zh(question, rng))
    if exchange.category not in _COPIED and rng.random() < 0.3:
        question = question.lower() if rng.random() < 0.8 else question[0].lower() + question[1:]
    return replace(exchange, question=question)


def _vary_zh(question: str, rng: random.Random) -> str:
    if rng.random() < 0.15:
        question = question.translate(_MARKS)
    quotes = rng.random()
    if quotes < 0.4:
        marks = rng.choice((("", ""), ("", ""), ('"', '"'), ("「", "」"), ("‘", "’")))
        question = question.replace("“", marks[0]).replace("”", marks[1])
    return question


# Here a new wording is not enough: the operands themselves must be new.
_COMPUTED = (arithmetic.addition, arithmetic.subtraction, arithmetic.counting)


def evaluation(
    seed: int,
    task: Task | None,
    language: Language,
    count: int,
    before: Callable[[random.Random], list[Round]] = lambda _: [],
) -> list[Exchange]:
    """Distinct held-out questions of one task (None: of memory), as many as there are up to `count`.

    Args:
        before: makes the conversation before each question (memory brings its own).
    """
    found: dict[str, Exchange] = {}
    for index in range(count * 60):
        rng = random.Random(f"{_SEED}/{seed}/evaluation/{getattr(task, '__name__', 'memory')}/{language}/{index}")
        if task is None:
            exchange = vary(remembering(rng, language, held_out=True), rng)
        else:
            exchange = draw(task, rng, language, held_out=True)
            while task in _COMPUTED and not exchange.new_combination:
                exchange = draw(task, rng, language, held_out=True)
            exchange = exchange if exchange.is_blank else vary(exchange, rng).after(before(rng))
        found.setdefault(prompt_key(exchange), exchange)
        if len(found) == count:
            break
    return list(found.values())


def prompt_key(exchange: Exchange) -> str:
    """The whole prompt in normal form, to show that no prompt of the evaluation is in the corpus."""
    return (
        "\x1f".join(normalise(text) for pair in exchange.history for text in pair)
        + "\x1e"
        + normalise(exchange.question)
    )
