"""Make questions on capitals, opposites, translations, days and months. Wordings are held out, facts are not."""


# of words reads best as text.

import random

from .. import facts
from ..exchange import Exchange, Language, ask
from ..grammar import phrases

_TELL = "(|Please tell me: |Tell me, |Do you know |Quick question: |Can you tell me )"
_QING = "(|请问|请告诉我|你知道|我想知道)"

CAPITAL_EN = phrases(
    f"{_TELL}what is the capital (of|city of) {{x}}?",
    "What's the capital of {x}?",
    "(Which city is|Name|Tell me) the capital of {x}.",
    "The capital of {x}?",
    "{x}'s capital (is what|is|)?",
)
COUNTRY_EN = phrases(
    "(Which country|What country) (has|is|has as its) capital {x}?",
    "{x} is the capital of (which|what) country?",
    "(Which|What) country has {x} as its capital?",
    "Of which country is {x} the capital?",
)
CAPITAL_ZH = phrases(
    f"{_QING}(|，){{x}}的(首都|首府)(是哪里|是什么|在哪里|是哪个城市|是哪座城市|叫什么)(？|呢？|)",
    "{x}(首都是哪里|首都是哪|的首都)？",
    "(哪个城市|哪座城市)是{x}的首都？",
)
COUNTRY_ZH = phrases(
    f"{_QING}(|，){{x}}是(哪个国家|哪一国|什么国家)的首都(？|呢？|)",
    "(哪个国家|什么国家)的首都是{x}？",
)


def capital(rng: random.Random, language: Language) -> Exchange:
    """Return a question on the capital of a country, or on the country of a capital."""
    row = rng.choice(facts.COUNTRIES)
    name, city = (row.name_en, row.capital_en) if language == "en" else (row.name_zh, row.capital_zh)
    answer = f"The capital of {name} is {city}." if language == "en" else f"{name}的首都是{city}。"
    if rng.random() < 0.3:
        answer = f"{city} is the capital of {name}." if language == "en" else f"{city}是{name}的首都。"
        return ask(rng, "capitals", language, COUNTRY_EN if language == "en" else COUNTRY_ZH, (answer,), x=city)
    return ask(rng, "capitals", language, CAPITAL_EN if language == "en" else CAPITAL_ZH, (answer,), x=name)


OPPOSITE = {
    "en": phrases(
        f"{_TELL}what is the opposite of {{x}}?",
        "What's the opposite of {x}?",
        "What is the opposite of the word {x}?",
        "(The opposite|Opposite) of {x}(?| is what?| is)",
        "(Give|Tell) me the opposite of {x}.",
        "(Give|Tell) me an antonym (of|for) {x}.",
        "Which word is the opposite of {x}?",
        "What is (the|an) antonym of {x}?",
        "If it is not {x}, what is the opposite?",
    ),
    "zh": phrases(
        f"{_QING}(|，)“{{x}}”的(反义词|相反词)(是什么|是哪个|是哪个词)(？|呢？|)",
        "{x}的(反义词|反义)(是什么|是|是啥)？",
        "(说出|告诉我|给我|请说出)“{x}”的反义词。",
        "(与|和|跟)“{x}”(意思相反|相反)的词(是什么|是哪个)？",
        "“{x}”反过来(是什么|怎么说)？",
    ),
}


def opposite(rng: random.Random, language: Language) -> Exchange:
    """Return a question on the opposite of a word; each pair is used in both directions."""
    pair = rng.choice(facts.OPPOSITES_EN if language == "en" else facts.OPPOSITES_ZH)
    x, y = pair if rng.random() < 0.5 else (pair[1], pair[0])
    answer = f"The opposite of {x} is {y}." if language == "en" else f"“{x}”的反义词是“{y}”。"
    return ask(rng, "opposites", language, OPPOSITE[language], (answer,), x=_quoted(rng, x, language))


TO_ZH_EN = phrases(
    "(How do you|How do I|How can I|How would you|How to) say {x} in Chinese?",
    f"{_TELL}what is {{x}} in Chinese?",
    "(Translate|Please translate|Can you translate) {x} (into|to) Chinese.",
    "What is the Chinese (word|translation|name) (for|of) {x}?",
    "{x} in Chinese(?| please.)",
    "What's the Chinese for {x}?",
)
TO_EN_EN = phrases(
    "What does {x} mean(?| in English?)",
    f"{_TELL}what is {{x}} in English?",
    "(Translate|Please translate|Can you translate) {x} (into|to) English.",
    "What is the meaning of {x}?",
    "How do you say {x} in English?",
    "{x} in English(?| please.)",
)
TO_EN_ZH = phrases(
    f"{_QING}(|，)“{{x}}”用英(语|文)(怎么说|怎么讲|如何说)(？|呢？|)",
    "“{x}”的英(语|文)(是什么|怎么说|单词是什么)？",
    "(把|请把|帮我把)“{x}”(翻译成|译成)英(语|文)。",
    "{x}(英语怎么说|英文怎么说|用英语怎么说)？",
    "翻译(成英语：|成英文：){x}",
)
TO_ZH_ZH = phrases(
    f"{_QING}(|，){{x}}(是什么意思|用中文怎么说|的中文是什么|中文怎么说)(？|呢？|)",
    "(把|请把|帮我把){x}(翻译成|译成)(中文|汉语)。",
    "(单词|英语单词|英文单词){x}(是什么意思|怎么翻译)？",
    "翻译(成中文：|成汉语：){x}",
)


def translation(rng: random.Random, language: Language) -> Exchange:
    """Return a question, in `language`, on the translation of a word from English to Chinese or back."""
    word = rng.choice(facts.WORDS)
    to_zh = rng.random() < (0.6 if language == "en" else 0.4)
    x = word.en if to_zh else word.zh
    if language == "en":
        answer = f"“{word.en}” is “{word.zh}” in Chinese." if to_zh else f"“{word.zh}” is “{word.en}” in English."
        return ask(rng, "translation", "en", TO_ZH_EN if to_zh else TO_EN_EN, (answer,), x=_quoted(rng, x, "en"))
    answer = f"“{word.en}”的中文是“{word.zh}”。" if to_zh else f"“{word.zh}”的英语是“{word.en}”。"
    return ask(rng, "translation", "zh", TO_ZH_ZH if to_zh else TO_EN_ZH, (answer,), x=x)


NEXT = {
    "en": phrases(
        f"{_TELL}(what|which) {{unit}} (comes|is|follows) after {{x}}?",
        "(Which|What) {unit} follows {x}?",
        "What (comes|is) after {x}?",
        "What is the {unit} after {x}?",
        "Name the {unit} after {x}.",
    ),
    "zh": phrases(
        f"{_QING}(|，){{x}}(的后面是|后面是|之后是|的下一{{unit}}是|过后是)(什么|{{which}})(？|呢？|)",
        "{x}的下一{unit}(是|是哪个)？",
    ),
}
PREVIOUS = {
    "en": phrases(
        f"{_TELL}(what|which) {{unit}} (comes|is) before {{x}}?",
        "What (comes|is) before {x}?",
        "What is the {unit} before {x}?",
        "Name the {unit} before {x}.",
    ),
    "zh": phrases(
        f"{_QING}(|，){{x}}(的前面是|前面是|之前是|的上一{{unit}}是)(什么|{{which}})(？|呢？|)",
        "{x}的上一{unit}(是|是哪个)？",
    ),
}
TOMORROW = {
    "en": phrases(
        "(If today is|Today is) {x}(, what day is tomorrow?|, which day is tomorrow?|. What day is tomorrow?)",
        "What day is tomorrow if today is {x}?",
    ),
    "zh": phrases(
        "(今天是|如果今天是|假如今天是|要是今天){x}(，明天是星期几|，那明天星期几|，明天是什么日子|，明天呢)？"
    ),
}
YESTERDAY = {
    "en": phrases(
        "(If today is|Today is) {x}(, what day was yesterday?|, which day was yesterday?|. What day was yesterday?)",
        "What day was yesterday if today is {x}?",
    ),
    "zh": phrases(
        "(今天是|如果今天是|假如今天是|要是今天){x}(，昨天是星期几|，那昨天星期几|，昨天是什么日子|，昨天呢)？"
    ),
}
MONTH_DAYS = {
    "en": phrases(
        f"{_TELL}how many days (are there in|are in|does) {{x}}( have|)?",
        "(How long is|The number of days in) {x}?",
        "How many days has {x}( got|)?",
    ),
    "zh": phrases(f"{_QING}(|，){{x}}(|份)(有多少天|有几天|一共有多少天|多少天|共几天)(？|呢？|)"),
}
NTH_MONTH = {
    "en": phrases(f"{_TELL}(what|which) is the {{n}} month( of the year|)?", "Name the {n} month( of the year|)."),
    "zh": phrases(f"{_QING}(|，)(一年|一年里|一年中)(|的)第{{n}}个月(是几月|是哪个月|叫什么)(？|呢？|)"),
}
UNIT = {
    "en": phrases(
        f"{_TELL}how many {{unit}} (are there in|are in|does) {{whole}}( have|)?",
        "{whole} has how many {unit}?",
        "How many {unit} make {whole}?",
    ),
    "zh": phrases(f"{_QING}(|，){{whole}}(有多少|有几|一共有多少|等于多少|是多少){{unit}}(？|呢？|)"),
}


def calendar(rng: random.Random, language: Language) -> Exchange:
    """Return a question on days of the week, months and their lengths, or units of time."""
    return rng.choice((_neighbour, _neighbour, _neighbour, _tomorrow, _tomorrow, _length, _length, _nth, _unit))(
        rng, language
    )


def _neighbour(rng: random.Random, language: Language) -> Exchange:
    days = rng.random() < 0.5
    names = _names(days, language)
    i, after = rng.randrange(len(names)), rng.random() < 0.5
    x, y = names[i], names[(i + (1 if after else -1)) % len(names)]
    word = "after" if after else "before"
    answer = f"{y} comes {word} {x}." if language == "en" else f"{x}的{'后' if after else '前'}面是{y}。"
    unit, which = ("day", "") if days else ("month", "")
    if language == "zh":
        unit, which = ("天", "星期几") if days else ("个月", "几月")
    wordings = (NEXT if after else PREVIOUS)[language]
    return ask(rng, "calendar", language, wordings, (answer,), x=_surface(rng, x), unit=unit, which=which)


def _tomorrow(rng: random.Random, language: Language) -> Exchange:
    names = _names(True, language)
    i, tomorrow = rng.randrange(7), rng.random() < 0.5
    x, y = names[i], names[(i + (1 if tomorrow else -1)) % 7]
    if language == "en":
        answer = f"If today is {x}, {'tomorrow is' if tomorrow else 'yesterday was'} {y}."
    else:
        answer = f"今天是{x}，{'明天' if tomorrow else '昨天'}是{y}。"
    wordings = (TOMORROW if tomorrow else YESTERDAY)[language]
    return ask(rng, "calendar", language, wordings, (answer,), x=_surface(rng, x))


def month_length(month: int, language: Language) -> str:
    """Return the sentence with the length of a month, 0 to 11."""
    if language == "en":
        name, leap = facts.MONTHS_EN[month], ", or 29 in a leap year" if month == 1 else ""
        return f"{name} has {facts.MONTH_DAYS[month]} days{leap}."
    leap = "，闰年有29天" if month == 1 else ""
    return f"{facts.MONTHS_ZH[month]}有{facts.MONTH_DAYS[month]}天{leap}。"


def _length(rng: random.Random, language: Language) -> Exchange:
    month = rng.randrange(12)
    x = _surface(rng, _names(False, language)[month])
    return ask(rng, "calendar", language, MONTH_DAYS[language], (month_length(month, language),), x=x)


def _nth(rng: random.Random, language: Language) -> Exchange:
    i = rng.randrange(12)
    n, name = (
        (facts.ORDINALS_EN[i], facts.MONTHS_EN[i]) if language == "en" else (facts.ORDINALS_ZH[i], facts.MONTHS_ZH[i])
    )
    answer = f"The {n} month of the year is {name}." if language == "en" else f"一年的第{n}个月是{name}。"
    return ask(rng, "calendar", language, NTH_MONTH[language], (answer,), n=n)


def _unit(rng: random.Random, language: Language) -> Exchange:
    unit, whole, number = rng.choice(facts.UNITS_EN if language == "en" else facts.UNITS_ZH)
    answer = f"There are {number} {unit} in {whole}." if language == "en" else f"{whole}有{number}。"
    return ask(rng, "calendar", language, UNIT[language], (answer,), unit=unit, whole=whole)


def _names(days: bool, language: Language) -> tuple[str, ...]:
    if language == "en":
        return facts.WEEKDAYS_EN if days else facts.MONTHS_EN
    return facts.WEEKDAYS_ZH if days else facts.MONTHS_ZH


_DIGITS = {name: f"{i + 1}月" for i, name in enumerate(facts.MONTHS_ZH)}


def _quoted(rng: random.Random, word: str, language: Language) -> str:
    """Return the word, in English sometimes with quotation marks; Chinese wordings have their own."""
    if language == "en" and rng.random() < 0.3:
        return rng.choice(('"{}"', "“{}”", "'{}'")).format(word)
    return word


def _surface(rng: random.Random, name: str) -> str:
    """Return the name of a day or month; a Chinese one sometimes in another usual form, such as 周一 or 3月."""
    if name in _DIGITS and rng.random() < 0.35:
        return _DIGITS[name]
    if name.startswith("星期") and rng.random() < 0.35:
        return rng.choice(("周", "礼拜")) + name[2:]
    return name
