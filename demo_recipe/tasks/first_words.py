"""Make frequent first messages: short greetings, thanks, goodbyes and questions about the model.

In the other tasks a plain "hello" is one of hundreds of wordings, but people type it far more often than that.
"""

import random
from collections.abc import Iterator

from ..exchange import Exchange, Language, ask, is_common
from . import about, chitchat

_SHORTEST = 12


def _banks(language: Language) -> Iterator[tuple[str, list[str], tuple[str, ...]]]:
    """Yield (category, wordings, answers) of all exchanges whose wordings have no slots."""
    for wordings, answers in chitchat.GREETING[language]:
        yield "greeting", wordings, answers
    yield "thanks", chitchat.THANKS[language], chitchat.THANKS_ANSWERS[language]
    yield "goodbye", chitchat.GOODBYE[language], chitchat.GOODBYE_ANSWERS[language]
    for wordings, answers in chitchat.SMALL_TALK[language]:
        yield "small talk", wordings, answers
    for wordings, answers in about.IDENTITY[language]:
        yield "identity", wordings, answers
    for wordings, answer in about.GLM_FACTS[language]:
        yield "GLM-130B", wordings, (answer,)


_CHOICES = {
    language: [
        (category, [*filter(is_common, wordings), *sorted(wordings, key=len)[:_SHORTEST]], answers)
        for category, wordings, answers in _banks(language)
    ]
    for language in ("en", "zh")
}


_COMMONEST = {
    language: [
        (category, wording, answers)
        for category, wordings, answers in choices
        for wording in wordings
        if is_common(wording)
    ]
    for language, choices in _CHOICES.items()
}


def commonest_words(rng: random.Random, language: Language) -> Exchange:
    """Return one of the most frequent first messages (see `exchange.is_common`)."""
    category, wording, answers = rng.choice(_COMMONEST[language])
    return ask(rng, category, language, (wording.rstrip("!?.！？。") if rng.random() < 0.4 else wording,), answers)


def first_words(rng: random.Random, language: Language) -> Exchange:
    """Return an exchange with a short wording; the most frequent ones have twice the weight."""
    category, wordings, answers = rng.choice(_CHOICES[language])
    return ask(rng, category, language, wordings, answers)
