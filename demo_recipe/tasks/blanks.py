"""Make statements with one word that can be blanked, for texts of the corpus and for questions with a [MASK]."""

# ruff: noqa: E501 - lists of words and wordings: a Chinese character counts as two columns, and a list
# of words reads best as text.

import random
from dataclasses import dataclass

from .. import facts
from ..exchange import Exchange, Language
from ..grammar import expand, is_held_out, normalise
from . import arithmetic
from .knowledge import month_length

MASK = "[MASK]"


@dataclass(frozen=True)
class Statement:
    """A true sentence, split at its key word. A held-out sentence is nowhere in the corpus."""

    before: str
    key: str
    after: str

    @property
    def text(self) -> str:
        """The whole sentence."""
        return self.before + self.key + self.after

    @property
    def masked(self) -> str:
        """The sentence with [MASK] in place of its key word."""
        return self.before + MASK + self.after

    @property
    def held_out(self) -> bool:
        """The sentence belongs to the evaluation."""
        return is_held_out("statement", normalise(self.text))


_FRAME = {
    "en": ("", "", "", "As we know, ", "It is true: ", "Remember: ", "Everybody knows: ", "Of course, ", "We learn: ", "I think: "),
    "zh": ("", "", "", "我们知道，", "大家都知道，", "请记住，", "老师说，", "当然，", "其实，", "书上说，"),
}  # fmt: skip

CAPITAL = {
    "en": [*expand("The capital (|city )of {n} is <{c}>."), "<{c}> is the capital of {n}.", "{c} is the capital of <{n}>.", "{n} has the capital <{c}>.",
       "The capital of <{n}> is {c}.", "If you visit the capital of {n}, you are in <{c}>."],
    "zh": ["{n}的首都是<{c}>。", "<{c}>是{n}的首都。", "{c}是<{n}>的首都。", "<{n}>的首都是{c}。", "{n}的首都叫<{c}>。",
           "去{n}的首都，就是去<{c}>。"],
}  # fmt: skip
OPPOSITE = {
    "en": ["The opposite of {a} is <{b}>.", "{a} is the opposite of <{b}>.", "What is not {a} is <{b}>.",
           "{a} and <{b}> are opposites.", "<{b}> is the opposite of {a}."],
    "zh": ["“{a}”的反义词是“<{b}>”。", "“<{b}>”的反义词是“{a}”。", "“{a}”和“<{b}>”是反义词。", "“{a}”与“<{b}>”意思相反。"],
}  # fmt: skip
TRANSLATION = {
    "en": ["“{en}” is “<{zh}>” in Chinese.", "“{zh}” is “<{en}>” in English.", "“{zh}” means “<{en}>”.",
           "The Chinese word for “{en}” is “<{zh}>”."],
    "zh": ["“{en}”的中文是“<{zh}>”。", "“{zh}”的英语是“<{en}>”。", "“{zh}”用英语说是“<{en}>”。", "“{en}”的意思是“<{zh}>”。"],
}  # fmt: skip
NEXT = {
    "en": ["After {a} comes <{b}>.", "<{b}> comes after {a}.", "{a} comes before <{b}>.", "<{a}> comes before {b}.",
           "{b} follows <{a}>.", "Before {b} comes <{a}>."],
    "zh": ["{a}的后面是<{b}>。", "{b}的前面是<{a}>。", "<{b}>在{a}的后面。", "<{a}>在{b}的前面。", "{a}过后是<{b}>。"],
}  # fmt: skip


def statement(rng: random.Random, language: Language) -> Statement:
    """Return a random statement, in most cases with an introduction such as "As we know, ..."."""
    makers = (_capital, _opposite, _translation, _next, _month, _sum, _row, _everyday, _everyday)
    frame = rng.choice(_FRAME[language])
    text = rng.choice(makers)(rng, language)
    before, rest = text.split("<")
    key, after = rest.split(">")
    return Statement(frame + before, key, after)


def _fill(rng: random.Random, patterns: list[str], **slots: str) -> str:
    return rng.choice(patterns).format(**slots)


def _capital(rng: random.Random, language: Language) -> str:
    row = rng.choice(facts.COUNTRIES)
    if language == "en":
        return _fill(rng, CAPITAL["en"], n=row.name_en, c=row.capital_en)
    return _fill(rng, CAPITAL["zh"], n=row.name_zh, c=row.capital_zh)


def _opposite(rng: random.Random, language: Language) -> str:
    a, b = rng.choice(facts.OPPOSITES_EN if language == "en" else facts.OPPOSITES_ZH)
    return _fill(rng, OPPOSITE[language], **({"a": a, "b": b} if rng.random() < 0.5 else {"a": b, "b": a}))


def _translation(rng: random.Random, language: Language) -> str:
    word = rng.choice(facts.WORDS)
    return _fill(rng, TRANSLATION[language], en=word.en, zh=word.zh)


def _next(rng: random.Random, language: Language) -> str:
    en, zh = rng.choice(((facts.WEEKDAYS_EN, facts.WEEKDAYS_ZH), (facts.MONTHS_EN, facts.MONTHS_ZH)))
    names = en if language == "en" else zh
    i = rng.randrange(len(names))
    return _fill(rng, NEXT[language], a=names[i], b=names[(i + 1) % len(names)])


def _month(rng: random.Random, language: Language) -> str:
    month = rng.randrange(12)
    days = str(facts.MONTH_DAYS[month])
    return month_length(month, language).replace(days, f"<{days}>", 1)


def _sum(rng: random.Random, language: Language) -> str:
    a, b = rng.randint(0, 20), rng.randint(0, 20)
    a, b, sign = (max(a, b), min(a, b), "-") if rng.random() < 0.4 else (a, b, "+")
    if arithmetic.is_sum_held_out(sign, a, b):
        return _sum(rng, language)
    result = a + b if sign == "+" else a - b
    return f"{a} {sign} {b} = <{result}>" + ("." if language == "en" else "。")


def _row(rng: random.Random, language: Language) -> str:
    """Return a row of consecutive numbers, of which one is the key."""
    start = rng.randint(0, 24)
    numbers = [str(n) for n in range(start, start + rng.randint(4, 6))]
    i = rng.randrange(1, len(numbers))
    numbers[i] = f"<{numbers[i]}>"
    return ", ".join(numbers) + "." if language == "en" else "、".join(numbers) + "。"


def _everyday(rng: random.Random, language: Language) -> str:
    sentence = rng.choice(facts.EVERYDAY_EN if language == "en" else facts.EVERYDAY_ZH)
    return sentence.replace("{", "<").replace("}", ">")


def fill_blank(rng: random.Random, language: Language) -> Exchange:
    """Return blank filling without chat: a statement with a real [MASK] token; the answer is its key word."""
    made = statement(rng, language)
    return Exchange(
        "fill [MASK]", language, made.masked, made.key, (made.key,), new_combination=made.held_out, is_blank=True
    )


_ASKED = {
    "en": ("{x}", "{x}", "Fill in the blank: {x}", "Complete the sentence: {x}", "What goes into the blank? {x}"),
    "zh": ("{x}", "{x}", "填空：{x}", "请填空：{x}", "把句子补充完整：{x}"),
}
_GAPS = (MASK, MASK, MASK, "___", "____", "...", "（）")


def chat_blank(rng: random.Random, language: Language) -> Exchange:
    """Return a gap typed into the chat, where [MASK] is ordinary text; the answer is the whole sentence."""
    made = statement(rng, language)
    gap = rng.choice(_GAPS)
    question = rng.choice(_ASKED[language]).format(x=made.before + gap + made.after)
    return Exchange("gap in chat", language, question, made.text, (made.text,), new_combination=made.held_out)
