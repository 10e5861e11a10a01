"""Generate the corpus (conversations, and texts for blank infilling) and the questions of the evaluation.

A seed determines everything. No round of the corpus is held out, and every question of the evaluation is.
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
    """The proportions of the kinds of exchanges in a corpus. Shares are from 0 to 1.

    Attributes:
        tasks: the weight of each task among the exchanges that belong to no other kind.
        blanks: the share of all exchanges that are texts with a blank.
        memory: the share of all exchanges that are conversations in which the visitor says something about themselves
            and may ask for it later.
        follow_up: the share of the exchanges of `tasks` that have a conversation before them.
        any_preference: the share of visitors' statements that are a preference for an arbitrary word.
        visitor: the share of the conversations of `follow_up` in which the visitor says something about themselves.
        noting: the share of all exchanges that are a visitor's statement to be acknowledged, alone or after another.
    """

    tasks: Mapping[Task, float]
    blanks: float
    memory: float
    follow_up: float
    any_preference: float = 0.0
    visitor: float = 0.0
    noting: float = 0.0


# The first stage favours the skills that take longest to learn, above all arithmetic; conversations follow later.
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
# The third stage favours the weak tasks of an earlier model, above all answers that cannot be guessed: sums, rare
# facts, words to be copied.
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
# The fourth stage favours what was still weak: gaps typed into the chat, words to repeat, details of GLM-130B.
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
# The fifth stage is an alternative to the fourth with more small talk.
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
# The sixth stage has more of the tasks that were nearly right.
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
# The seventh stage imitates real use: visitors say two things in a row, change the subject, give thanks, and type sums
# as on a calculator, some of them too large.
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
# The eighth stage adds longer texts to repeat, for characters that were too rare to be learnt.
EIGHTH = replace(SEVENTH, tasks={**SEVENTH.tasks, repeating.dictation: 70, arithmetic.bare_sum: 12})
TASKS = tuple(FIRST.tasks)
_SEED = "glm-demo"


def task_of(rng: random.Random) -> Task:
    """Return a random task, drawn by its weight in the first mixture."""
    return _task(rng, FIRST)


def _task(rng: random.Random, mixture: Mixture) -> Task:
    return rng.choices(list(mixture.tasks), weights=list(mixture.tasks.values()))[0]


def exchanges(seed: int, count: int, mixture: Mixture = FIRST) -> Iterator[Exchange]:
    """Yield `count` exchanges of the corpus: questions with answers, in conversations or alone. None is held out."""
    for index in range(count):
        rng = random.Random(f"{_SEED}/{seed}/exchange/{index}")
        yield _exchange(rng, mixture)


def texts(seed: int, count: int) -> Iterator[str]:
    """Yield `count` texts for blank infilling: statements, or the transcript of a conversation. None is held out."""
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
    """Return a random exchange of the task from the corpus' part of the split, or from the held-out part."""
    while True:
        exchange = task(rng, language)
        if exchange.held_out == held_out:
            return exchange


def _history_length(rng: random.Random) -> int:
    return min(LONGEST_HISTORY, 1 + int(rng.expovariate(0.9)))


def history(rng: random.Random, language: Language, rounds: int) -> list[Round]:
    """Return rounds of questions and right answers from the corpus, a few of them in the other language."""
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
    """Return a conversation in which the visitor says something about themselves and may ask for it later.

    For the corpus it may also end with the statement itself, which is to be acknowledged, or with a question about
    something that was not said. For the evaluation it always ends with the question about a held-out statement.
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
    """Return a visitor's statement; for the evaluation one with a held-out name or preference, in any wording."""
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
    """Return a statement of a kind that `told` does not have yet, so that each question has a single answer."""
    taken = {fact.unknown.answer for fact in told}
    while True:
        another = _told(rng, language, False, any_preference)
        if another.unknown.answer not in taken:
            return another


def _introduction(rng: random.Random, language: Language) -> Exchange:
    """Return a statement alone, or a name and a preference said in one sentence."""
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
    """Return a visitor's statement that is to be acknowledged, alone or after others."""
    told = _said(rng, language, _ANY_PREFERENCE)
    return told.statement.after(telling(rng, language, rng.choice((0, 1, 1, 2)), told))


def telling(rng: random.Random, language: Language, facts: int, *known: memory.Told) -> list[Round]:
    """Return rounds in which the visitor makes `facts` statements not `known`, each perhaps asked for at once."""
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

# Categories whose answer repeats words of the question, so that their case matters.
_COPIED = ("name", "preference", "repeating", "gap in chat")


def vary(exchange: Exchange, rng: random.Random) -> Exchange:
    """Return the exchange with the question typed differently: case, punctuation, spaces, an opening word."""
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


# Tasks in which the operands must be new; a new wording is not enough.
_COMPUTED = (arithmetic.addition, arithmetic.subtraction, arithmetic.counting)


def evaluation(
    seed: int,
    task: Task | None,
    language: Language,
    count: int,
    before: Callable[[random.Random], list[Round]] = lambda _: [],
) -> list[Exchange]:
    """Return up to `count` distinct held-out questions of one task (None: of memory).

    Args:
        before: returns the conversation before each question; not used for memory.
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
    """Return the whole prompt in normal form, by which prompts of the evaluation and the corpus are compared."""
    return (
        "\x1f".join(normalise(text) for pair in exchange.history for text in pair)
        + "\x1e"
        + normalise(exchange.question)
    )
