"""Make statements of visitors about themselves (a name, a favourite, a preference) and questions for them."""

# ruff: noqa: E501 - lists of words and wordings: a Chinese character counts as two columns, and a list
# of words reads best as text.

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from .. import words
from ..exchange import Exchange, Language, Round, ask
from ..grammar import is_held_out, phrases

TELL_NAME = {
    "en": phrases(
        "(|Hi, |Hello, |Hello! |Hi! |Hey, |By the way, |Just so you know, )"
        "(my name is|I am|I'm|call me|you can call me|please call me|my name's|people call me) {x}.",
        "(The name is|It's|This is) {x}(| here| speaking).",
        "Remember my name: {x}.",
    ),
    "zh": phrases(
        "(|你好，|您好，|嗨，|对了，|顺便说一下，|你好！)(我叫|我是|我的名字是|我的名字叫|叫我|你可以叫我|请叫我|大家叫我){x}(|。|吧。)",
        "(记住|请记住)我的名字(：|，我叫|是){x}(|。)",
    ),
}
ASK_NAME = {
    "en": phrases(
        "(|Do you remember: |Tell me, |Now, |So, |Quick check: |By the way, )(what is my name|what's my name|who am I)?",
        "(Do you know|Do you remember|Can you tell me|Can you remember|Do you still know|Tell me|Say) my name( again|)?",
        "(Do you remember|Do you know|Can you tell me) (who I am|what my name is|what I am called)?",
        "(What was my name|What am I called|How am I called|What did I say my name was)( again|)?",
    ),
    "zh": phrases(
        "(|请问|那么，|对了，|现在告诉我，)(我叫什么名字|我叫什么|我是谁|我的名字是什么|我的名字叫什么)(|？|呢？|来着？)",
        "(你知道|你记得|你还记得|你能说出|你还知道)(我的名字|我叫什么|我是谁|我叫什么名字)吗(|？)",
        "(说出|说一下|告诉我|请说出)我的名字(|。)",
    ),
}
NAME_OF = {"en": "Your name is {x}.", "zh": "你叫{x}。"}
NAME_UNKNOWN = {"en": "You have not told me your name yet.", "zh": "你还没有告诉我你的名字。"}
NAME_NOTED = {"en": "Nice to meet you, {x}!", "zh": "很高兴认识你，{x}！"}

TELL_LIKE = {
    "en": phrases(
        "(|By the way, |You know, |Well, )I (really |)(like|love|enjoy) {x}( very much| a lot|).", "I am fond of {x}."
    ),
    "zh": phrases("(|对了，|顺便说一下，|其实，)我(很|非常|特别|最|)喜欢{x}(|。|哦。)", "我爱{x}(|。)"),
}
ASK_LIKE = {
    "en": phrases(
        "(|Do you remember: |Tell me, |Now, |So, )what (do I like|do I love|do I enjoy|was it that I like)?",
        "(Do you know|Do you remember|Can you tell me|Can you remember) what I (like|love|enjoy|said I like)?",
    ),
    "zh": phrases(
        "(|请问|那么，|对了，)我(喜欢什么|喜欢的是什么|爱什么|有什么爱好)(|？|呢？|来着？)",
        "(你知道|你记得|你还记得)我(喜欢什么|喜欢的是什么|爱什么)吗(|？)",
    ),
}
LIKE_OF = {"en": "You like {x}.", "zh": "你喜欢{x}。"}
LIKE_UNKNOWN = {"en": "You have not told me what you like yet.", "zh": "你还没有告诉我你喜欢什么。"}
LIKE_NOTED = {"en": "I will remember that you like {x}.", "zh": "我记住了，你喜欢{x}。"}

TELL_FAVOURITE = {
    "en": phrases(
        "(|By the way, |You know, |Well, )my favourite {kind} is {x}.",
        "My favorite {kind} is {x}.",
        "{x} is my favourite {kind}.",
        "The {kind} I like (best|most) is {x}.",
    ),
    "zh": phrases(
        "(|对了，|顺便说一下，|其实，)我最喜欢的{kind}是{x}(|。|哦。)",
        "{x}是我最喜欢的{kind}(|。)",
        "我最爱的{kind}是{x}(|。)",
    ),
}
ASK_FAVOURITE = {
    "en": phrases(
        "(|Do you remember: |Tell me, |Now, |So, )(what is|what's|which is|what was) my favourite {kind}?",
        "(Do you know|Do you remember|Can you tell me|Can you remember) my favourite {kind}?",
        "(Which|What) {kind} do I (like best|like most|prefer)?",
        "What is my favorite {kind}?",
    ),
    "zh": phrases(
        "(|请问|那么，|对了，)我最喜欢(的{kind}是什么|什么{kind}|哪种{kind}|的{kind}是哪个)(|？|呢？|来着？)",
        "(你知道|你记得|你还记得)我最喜欢(的{kind}是什么|什么{kind}|的{kind})吗(|？)",
    ),
}
FAVOURITE_OF = {"en": "Your favourite {kind} is {x}.", "zh": "你最喜欢的{kind}是{x}。"}
FAVOURITE_UNKNOWN = {
    "en": "You have not told me your favourite {kind} yet.",
    "zh": "你还没有告诉我你最喜欢的{kind}是什么。",
}
FAVOURITE_NOTED = {"en": "I will remember: your favourite {kind} is {x}.", "zh": "我记住了，你最喜欢的{kind}是{x}。"}


@dataclass(frozen=True)
class Told:
    """A visitor's statement and the questions for it.

    Attributes:
        statement: the statement, which is to be acknowledged.
        question: the question for it, with the right answer.
        unknown: the same question without the statement before it; its answer says that this is not known.
    """

    statement: Exchange
    question: Exchange
    unknown: Exchange


def name(rng: random.Random, language: Language) -> Told:
    """Return a statement of a name. The name itself is held out, in every wording."""
    x = words.name_en(rng) if language == "en" else words.name_zh(rng)
    return _told(
        rng, language, "name", (TELL_NAME, ASK_NAME, NAME_NOTED, NAME_OF, NAME_UNKNOWN), ("name", x.casefold()), x=x
    )


def like(rng: random.Random, language: Language) -> Told:
    """Return a preference for something in the list of preferences."""
    x = rng.choice(words.LIKES_EN if language == "en" else words.LIKES_ZH)
    return _like(rng, language, x)


def any_like(rng: random.Random, language: Language) -> Told:
    """Return a preference for an arbitrary word, which the model must copy."""
    return _like(rng, language, _anything(rng, language))


def any_favourite(rng: random.Random, language: Language) -> Told:
    """Return a favourite of some kind that is an arbitrary word, even if it does not fit the kind."""
    kind = rng.choice(list(words.FAVOURITES_EN if language == "en" else words.FAVOURITES_ZH))
    return _favourite(rng, language, kind, _anything(rng, language))


def _anything(rng: random.Random, language: Language) -> str:
    # Half of the words come from all lists together, so that they seldom fit: "jazz" as an animal must be copied.
    if rng.random() < 0.5:
        return rng.choice(words.LISTED_EN if language == "en" else words.LISTED_ZH)
    if language == "zh":
        verb = rng.choice(words.VERBS_ZH) if rng.random() < 0.3 else ""
        return verb + (rng.choice(words.NOUNS_ZH) if rng.random() < 0.6 else words.name_of_characters(rng))
    word = rng.choice(words.NOUNS_EN) if rng.random() < 0.5 else words.made_up_word(rng)
    front = rng.random()
    if front < 0.2:
        return f"{rng.choice(words.ADJECTIVES_EN)} {word}s"
    return f"the {word}" if front < 0.3 else word if front < 0.6 else f"{word}{rng.choice(('s', 'ing'))}"


def _like(rng: random.Random, language: Language, x: str) -> Told:
    bank = (TELL_LIKE, ASK_LIKE, LIKE_NOTED, LIKE_OF, LIKE_UNKNOWN)
    return _told(rng, language, "preference", bank, ("like", x), x=x)


def favourite(rng: random.Random, language: Language) -> Told:
    """Return a favourite colour, animal, food and so on, from the list of its kind."""
    table = words.FAVOURITES_EN if language == "en" else words.FAVOURITES_ZH
    kind = rng.choice(list(table))
    return _favourite(rng, language, kind, rng.choice(table[kind]))


def _favourite(rng: random.Random, language: Language, kind: str, x: str) -> Told:
    bank = (TELL_FAVOURITE, ASK_FAVOURITE, FAVOURITE_NOTED, FAVOURITE_OF, FAVOURITE_UNKNOWN)
    return _told(rng, language, "preference", bank, ("favourite", kind, x), kind=kind, x=x)


_Wordings = Mapping[str, list[str]]
_Answer = Mapping[str, str]
_Bank = tuple[_Wordings, _Wordings, _Answer, _Answer, _Answer]


def _told(
    rng: random.Random, language: Language, category: str, bank: _Bank, held: tuple[object, ...], **slots: str
) -> Told:
    tell, request, noted, known, unknown = bank

    def one(wordings: list[str], answer: str) -> Exchange:
        return ask(rng, category, language, wordings, (answer.format(**slots),), combination=held, **slots)

    statement = one(tell[language], noted[language])
    question = one(request[language], known[language])
    # "What is my name?" before a name was said contains no value that could be held out.
    missing = replace(question, answer=unknown[language].format(**slots), accepted=(unknown[language].format(**slots),))
    return Told(statement, question, replace(missing, new_combination=False))


def combined(rng: random.Random, language: Language) -> tuple[Told, Told, Round, bool]:
    """Return a name and a preference said in one sentence: both statements, the round, and whether it is held out."""
    who, what = name(rng, language), like(rng, language)
    x, y = _slot(who, NAME_OF[language]), _slot(what, LIKE_OF[language])
    if language == "en":
        said = (f"My name is {x} and I like {y}.", f"Nice to meet you, {x}! I will remember that you like {y}.")
    else:
        said = (f"我叫{x}，我喜欢{y}。", f"很高兴认识你，{x}！我记住了，你喜欢{y}。")
    return who, what, said, is_held_out("name", x.casefold()) or is_held_out("like", y)


def _slot(told: Told, pattern: str) -> str:
    before, after = pattern.split("{x}")
    return told.question.answer[len(before) : -len(after)]
