"""Make questions that the model should decline: on other subjects, or on facts that it has not learnt."""

# ruff: noqa: E501 - lists of words and wordings: a Chinese character counts as two columns, and a list
# of words reads best as text.

import random
from typing import Any

from .. import facts, words
from ..exchange import Exchange, Language, ask
from ..grammar import phrases
from . import arithmetic, knowledge

ANSWERS: dict[Language, tuple[str, ...]] = {
    "en": ("Sorry, I am only a small demo model and do not know that.",),
    "zh": ("抱歉，我只是一个小小的演示模型，不知道这个。",),
}
TOO_LARGE: dict[Language, tuple[str, ...]] = {
    "en": ("Sorry, I can only add and subtract up to 99, not below zero, and multiply up to 10.",),
    "zh": ("抱歉，我只会99以内、不小于零的加减法和10以内的乘法。",),
}

TOO_FAR: dict[Language, tuple[str, ...]] = {
    "en": ("Sorry, I am only a small demo model and can count up to 30.",),
    "zh": ("抱歉，我只是一个小小的演示模型，最多数到30。",),
}

OPEN = {
    "en": phrases(
        "(What is|What are|Explain|Describe|Define|Tell me about|Tell me something about|What do you know about) {n}?",
        "(What is|Where is|Explain|Describe|Draw|Show me) (a|the|my) {a} {n}(?|.)",
        "(How do I|How can I|How to|How would you|Can you|Could you|Please|Teach me to|Help me) {v} (a|the|my) {n}?",
        "(How does|Why does|Why did) (a|the) {n} {v} (a|the) {n2}?",
        "(Why is|When was|Where is|How is|Is) the {n} (so |){a}?",
        "(Write|Compose|Create|Give me|Draft) (a|an|me a) (poem|essay|story|song|letter|email|report|speech|novel) about {n}.",
        "(Write|Create|Show me) (a Python program|code|a function|a script|SQL|a class in Java) (to|that can) {v} {n}s.",
        "(Who invented|Who discovered|Who owns|Who wrote about|Who likes) the {n}?",
        "(Who is|Who was|Tell me about|Do you know) {w} {w2}?",
        "(When|Where|Why|How) (did|was|does) {w} {v} the {n}?",
        "(Which|What) {n} (is|was) the (best|biggest|oldest|most {a})?",
        "(What do you think|What is your opinion|Do you have an opinion) (of|about|on) {n}?",
        "(Recommend|Suggest|Find) (a|me a|a good|some) (film|book|restaurant|hotel|{n}).",
        "(What is|How is) the weather (today|tomorrow|in {w}|like)?",
        "(What time is it|What is the date today|What year is it|What day is it today|What is the time|Which day is today)(| in {w})?",
        "(What is the meaning of life|Does God exist|Who will win the {n}|Will {w} win|What is love|Are you in love)?",
        "(How much|How many|How old|How far|How tall|How heavy|How fast) (is|are) (the|a|your) {n}?",
        "(How many {n}s|How many people) (are there in|live in|come from) {w}?",
        "(Summarise|Summarize|Correct|Rewrite|Improve|Check|Continue) (this|the following|my) (text|sentence|essay|{n}): {w} {v} {n}.",
        "(Play|Stop|Open|Buy|Sell|Send|Order|Book|Call|Cancel) (a|the|my|me a) {n}(| for me| now| please).",
        "The {a} {n} {v}s the {a2} {n2}.",
        "{n} {n2}( {v}|)( {a}|)",
        "{w}( {w2}| {n}|)(| {g})?",
        "{g}( {g2}|)",
        "(Can|Could|Should|Must|Will) (I|we|you|he|she|a {n}) {v} (the|a) {a} {n2}?",
        "(What happens|What should I do) (if|when) (I|the {n}|you) {v} the {n2}?",
        "(What is the difference between|Compare) (a|the) {n} and (a|the) {n2}?",
        "(List|Name|Give me) (three|five|ten|some) (kinds of|types of|{a}) {n}s.",
        "(My|Our|The) {n} (is {a}|does not work|is broken|was stolen). What (now|should I do|can I do)?",
        "(Translate|Please translate) this sentence: the {a} {n} will {v}.",
        "(Solve|Simplify|Prove) (the equation|the {n}|x + {g}|this {n}).",
        "(Is it true that|Do you believe that|Did you know that) the {n} is {a}?",
        "(Who is the president|Who is the king|What is the population|What is the currency) of {c}?",
        "(How do you say|Translate|What is|Please translate) {k} (in|into) (French|German|Spanish|Japanese|Latin|Russian)?",
        "(Where is|Tell me about|What language do they speak in|How far is) {c}?",
    ),
    "zh": phrases(
        "(什么是|解释一下|介绍一下|请介绍|说说|讲讲|谈谈){n}(|？|。)",
        "{n}(是什么|是什么东西|有什么用|从哪里来|是怎么回事|的原理是什么|怎么样)(|？)",
        "(怎么|如何|怎样|教我|帮我|请帮我|能不能帮我|我想){v}{n}(|？|。)",
        "(为什么|怎么)(|这个|我的){n}(会|不会|能|不能){v}{n2}？",
        "(写|请写|帮我写|创作|给我写)(一首|一篇|一个|一段)关于{n}的(诗|作文|故事|文章|歌词|小说|报告|邮件)(|。)",
        "(写一段|给我)(Python代码|程序|代码|脚本)(来|，){v}{n}(|。)",
        "(谁发明了|谁发现了|谁拥有|谁最懂){n}(|？)",
        "(谁是|你认识|你知道|介绍一下){w}(|吗|？)",
        "{w}(什么时候|在哪里|为什么|怎么){v}{n}(|？)",
        "(哪种|哪个|什么){n}(最好|最大|最贵|最流行|最{v})(|？)",
        "(你怎么看|你觉得|你对)(|这个){n}(|怎么样|好不好|有什么看法)(|？)",
        "(推荐|给我推荐|帮我找)(一部|一个|几个|一本)(电影|餐厅|酒店|书|{n})(|。|吧)",
        "(今天|明天|{w}|上海|北京)(的天气怎么样|天气如何|会下雨吗|冷不冷)(|？)",
        "(现在几点|今天几号|今天星期几|今年是哪一年|现在是什么时间|今天是什么日子|几点了)(|？|了？)",
        "(人生的意义是什么|世界上有鬼吗|什么是爱|谁会赢得{n}|明天会怎样|你会死吗|你有感情吗)(|？)",
        "{n}(多少钱|有多重|有多高|有多远|有几个|有多快|多大)(|？)",
        "{w}(有多少人|有多少{n}|有几个{n})(|？)",
        "(总结|修改|润色|改写|检查|续写)(一下|下面)(|这段|我的)(文字|句子|作文|{n})：{w}{v}{n}。",
        "(播放|打开|关闭|购买|预订|发送|取消)(|我的|一个|一下){n}(|。|吧)",
        "{a}{n}(在|和|与|比){a2}{n2}(|{v}|。)",
        "{n}{n2}(|{v})(|。)",
        "{w}(|{w2}|{n})(|？|。)",
        "{g}",
        "(可以|应该|必须|能不能|会不会){v}{a}{n}(|吗？|？)",
        "(如果|要是)(我|你|有人){v}(了|){n}(，会怎么样|会发生什么|该怎么办)？",
        "{n}和{n2}(有什么区别|有什么不同|哪个好|有什么关系|相比呢)(|？)",
        "(列出|说出|给我)(三种|五个|十个|几种){n}(|。)",
        "我的{n}(坏了|不见了|被偷了|出问题了)(|，怎么办？|。)",
        "(把这句话翻译成英语：|翻译这句话：){a}{n}在{v}{n2}。",
        "(解方程|证明|化简)(|这个)(x+{g}|{n}|{n}定理)(|。)",
        "(真的|听说|据说){n}(是{a}|很{v}|会{v})(|吗？)",
        "“{k}”用(法语|日语|德语|俄语|韩语|西班牙语)(怎么说|怎么讲)(|？)",
        "{c}(的总统是谁|的人口是多少|用什么货币|在哪里|有多大|的语言是什么|好玩吗)(|？)",
    ),
}  # fmt: skip


def fallback(rng: random.Random, language: Language) -> Exchange:
    """Return a question that the demo model should decline politely."""
    kind = rng.random()
    if kind < 0.02:
        return _too_far(rng, language)
    if kind < 0.13:
        return _too_large(rng, language)
    return _unknown_fact(rng, language) if kind < 0.36 else _open(rng, language)


def _open(rng: random.Random, language: Language) -> Exchange:
    return ask(rng, "fallback", language, OPEN[language], ANSWERS[language], **_slots(rng, language))


def _slots(rng: random.Random, language: Language) -> dict[str, Any]:
    country = rng.choice(facts.COUNTRIES)
    if language == "en":
        nouns = [_unknown_word(rng) if rng.random() < 0.2 else rng.choice(words.NOUNS_EN) for _ in range(2)]
        named = [rng.choice((words.name_en(rng), words.made_up_word(rng).capitalize())) for _ in range(2)]
        verb, adjectives = rng.choice(words.VERBS_EN), rng.choices(words.ADJECTIVES_EN, k=2)
        letters = [words.gibberish(rng) for _ in range(2)]
    else:
        nouns = [words.characters(rng, 1, 3) if rng.random() < 0.2 else rng.choice(words.NOUNS_ZH) for _ in range(2)]
        named = [rng.choice((words.name_of_characters(rng), words.characters(rng, 2, 4))) for _ in range(2)]
        verb, adjectives = rng.choice(words.VERBS_ZH), rng.choices(words.ADJECTIVES_ZH, k=2)
        letters = [rng.choice((words.characters(rng, 1, 8), words.characters(rng, 4, 12))) for _ in range(2)]
    word = rng.choice(facts.WORDS)
    return {
        "n": nouns[0], "n2": nouns[1], "w": named[0], "w2": named[1], "v": verb, "a": adjectives[0],
        "a2": adjectives[1], "g": letters[0], "g2": letters[1], "c": country.name_en if language == "en" else country.name_zh,
        "k": word.en if language == "en" else word.zh,
    }  # fmt: skip


def _unknown_word(rng: random.Random) -> str:
    """Return a random word whose capital, opposite or translation the model does not learn."""
    word = words.made_up_word(rng) if rng.random() < 0.6 else rng.choice(words.NOUNS_EN)
    return word if word not in _KNOWN else _unknown_word(rng)


def _unknown_word_zh(rng: random.Random) -> str:
    word = words.characters(rng, 1, 3) if rng.random() < 0.6 else rng.choice(words.NOUNS_ZH)
    return word if word not in _KNOWN else _unknown_word_zh(rng)


_KNOWN = frozenset(
    [word for pair in facts.OPPOSITES_EN + facts.OPPOSITES_ZH for word in pair]
    + [text for word in facts.WORDS for text in (word.en, word.zh)]
    + [text for country in facts.COUNTRIES for text in country]
)


def _unknown_fact(rng: random.Random, language: Language) -> Exchange:
    if language == "en":
        banks = (knowledge.CAPITAL_EN, knowledge.OPPOSITE["en"], knowledge.TO_ZH_EN, knowledge.TO_EN_EN)
        word = _unknown_word(rng)
        if (wordings := rng.choice(banks)) is knowledge.CAPITAL_EN:
            word = word.capitalize()
    else:
        wordings = rng.choice((knowledge.CAPITAL_ZH, knowledge.OPPOSITE["zh"], knowledge.TO_EN_ZH, knowledge.TO_ZH_ZH))
        word = _unknown_word(rng) if wordings is knowledge.TO_ZH_ZH else _unknown_word_zh(rng)
    return ask(rng, "fallback", language, wordings, ANSWERS[language], x=word)


def bare_sum_too_large(rng: random.Random, _: Language) -> Exchange:
    """Return a calculation out of range, typed as on a calculator. It has no words, so its language is "en"."""
    return _too_large(rng, "en", bare=True)


def _too_large(rng: random.Random, language: Language, *, bare: bool = False) -> Exchange:
    """Return a calculation out of range, or a division."""
    sign = rng.choice("+-×÷")
    big = rng.randint(100, 10 ** rng.randint(3, 6))
    a, b = rng.choice(((big, rng.randint(1, 999)), (rng.randint(1, 99), big), (big, rng.randint(100, 99999))))
    if sign == "×" and rng.random() < 0.5:
        a, b = rng.randint(11, 99), rng.randint(2, 99)
    if sign == "-" and rng.random() < 0.5:
        b, a = sorted(rng.sample(range(100), 2), reverse=True)
    if sign == "÷":
        a, b = rng.randint(1, 999), rng.randint(1, 99)
        wordings = _DIVISION[language]
    else:
        wordings = arithmetic.WORDINGS[sign, language]
    if bare:
        wordings = arithmetic.formulas(wordings)
    return ask(rng, "fallback", language, wordings, TOO_LARGE[language], a=a, b=b)


def _too_far(rng: random.Random, language: Language) -> Exchange:
    """Return a request to count beyond the range."""
    a, b = rng.randint(1, 90), rng.randint(arithmetic.LARGEST_COUNT + 1, 10 ** rng.randint(2, 4))
    wordings = arithmetic.COUNT_FROM_ONE if rng.random() < 0.6 else arithmetic.COUNT_UP
    return ask(rng, "fallback", language, wordings[language], TOO_FAR[language], a=a, b=b)


_DIVISION = {
    "en": phrases(
        "(What is|What's|Calculate|How much is) {a} (divided by|/|÷) {b}?",
        "{a} (/|÷) {b}( = ?| =|)",
        "Divide {a} by {b}.",
    ),
    "zh": phrases(
        "(|请问|请计算|算一下){a}(除以|÷|/){b}(等于多少|是多少|等于几)(？|)", "{a}(除以|÷|/){b}", "计算{a}÷{b}"
    ),
}
