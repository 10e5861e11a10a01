"""Make requests to repeat words, which train copying. All words of the lists occur in them."""

import random

from .. import facts, words
from ..exchange import Exchange, Language, ask
from ..grammar import normalise, phrases

REPEAT = {
    "en": phrases(
        "(|Please |Now |Can you |Could you )(say|repeat) {x}.",
        "(|Please )(say|repeat) after me: {x}.",
        "(Say|Repeat|Write)(| this| the following): {x}.",
    ),
    "zh": phrases(
        "(|请|现在|你能)(说|重复|念)(|一下|一遍)：{x}(|。)",
        "(|请)跟我(说|念)：{x}(|。)",
        "(|请)(重复|复述)“{x}”(|。)",
    ),
}


def repeating(rng: random.Random, language: Language) -> Exchange:
    """Return a request to repeat one to three words. The words themselves are held out, in every wording."""
    space = " " if language == "en" else ""
    return _say_back(rng, language, space.join(_word(rng, language) for _ in range(rng.choice((1, 1, 2, 2, 3)))))


def dictation(rng: random.Random, language: Language) -> Exchange:
    """Return a request to repeat a longer text, so that rare characters are copied often enough to be learnt."""
    if language == "zh":
        return _say_back(rng, language, words.characters(rng, 4, 14))
    return _say_back(rng, language, " ".join(_word(rng, language) for _ in range(rng.randint(3, 6))))


def _say_back(rng: random.Random, language: Language, said: str) -> Exchange:
    combination = ("repeating", normalise(said))
    return ask(rng, "repeating", language, REPEAT[language], (said,), combination=combination, x=said)


def _word(rng: random.Random, language: Language) -> str:
    kind = rng.random()
    if kind < 0.6:
        return rng.choice(_LISTED[language])
    if language == "en":
        return words.made_up_word(rng) if kind < 0.85 else words.name_en(rng)
    return words.characters(rng, 1, 3) if kind < 0.85 else words.name_zh(rng)


_LISTED: dict[Language, tuple[str, ...]] = {
    "en": (*words.LISTED_EN, *words.NOUNS_EN, *words.ADJECTIVES_EN, *(word.en for word in facts.WORDS)),
    "zh": (*words.LISTED_ZH, *words.NOUNS_ZH, *words.ADJECTIVES_ZH, *(word.zh for word in facts.WORDS)),
}
