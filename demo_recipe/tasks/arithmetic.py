"""Make questions on addition and subtraction up to 99, multiplication up to 10, and counting up to 30.

For addition and subtraction the unordered pair of operands is held out in every wording, so that a right answer must be
computed, not recalled. The multiplication table is learnt by heart: there a wording with its pair is held out.
"""

# ruff: noqa: E501 - lists of words and wordings: a Chinese character counts as two columns, and a list
# of words reads best as text.

import random
from collections.abc import Sequence
from dataclasses import replace

from ..exchange import Exchange, Language, ask
from ..grammar import is_held_out, phrases

LARGEST_OPERAND = 99
LARGEST_FACTOR = 10
LARGEST_COUNT = 30
LONGEST_COUNT = 15
# The sum shown in the README is always held out, independently of its hash.
SHOWN_SUM = ("+", 17, 25)

_ASK_EN = "(What is|What's|Calculate|Compute|Work out|Can you tell me|Please calculate|Tell me|How much is|Do you know)"
WORDINGS = {
    ("+", "en"): phrases(
        f"{_ASK_EN} {{a}} (+|plus) {{b}}?",
        "{a} + {b}( = ?| =|)",
        "(Add|Please add) {a} (and|to) {b}.",
        "What is the sum of {a} and {b}?",
        "(What do you get|What is the result|What do I get) if (you|I|we) add {a} and {b}?",
        "{a} plus {b} (is what?|equals?|makes?|is|equals what?)",
        "I have {a} (apples|coins|books|pens|stamps) and get {b} more. How many (do I have|are there) now?",
    ),
    ("+", "zh"): phrases(
        "(|请问|请问一下，|请计算|算一下|帮我算|你知道|告诉我)(|，){a}(加|加上|+){b}(等于多少|是多少|等于几|是几|得多少)(？|呢？|)",
        "{a}(加|加上){b}",
        "{a}(和|与|跟){b}(的和|相加|加起来)(是多少|等于多少|是几)？",
        "(我有|小明有|妈妈有){a}个(苹果|橘子|球)，又(来了|买了|得到){b}个，一共有(多少|几)个？",
        "(把|将){a}和{b}(相加|加起来)(等于多少|是多少|)？",
        "计算{a}+{b}",
    ),
    ("-", "en"): phrases(
        f"{_ASK_EN} {{a}} (-|minus|take away) {{b}}?",
        "{a} - {b}( = ?| =|)",
        "(Subtract|Please subtract|Take|Take away) {b} from {a}.",
        "What is the difference (between|of) {a} and {b}?",
        "(What do you get|What is the result|What do I get) if (you|I|we) (subtract|take) {b} from {a}?",
        "{a} minus {b} (is what?|equals?|makes?|is|equals what?)",
        "I have {a} (apples|coins|books|pens|stamps) and (lose|sell|give away) {b}. How many (do I have|are) left?",
    ),
    ("-", "zh"): phrases(
        "(|请问|请问一下，|请计算|算一下|帮我算|你知道|告诉我)(|，){a}(减|减去|-){b}(等于多少|是多少|等于几|是几|得多少)(？|呢？|)",
        "{a}(减|减去){b}",
        "{a}(和|与|跟){b}的差(是多少|等于多少|是几)？",
        "(我有|小明有|妈妈有){a}个(苹果|橘子|球)，(吃了|用了|丢了|卖了){b}个，还(剩|有)(多少|几)个？",
        "(从{a}里|{a}里面)(减去|去掉){b}(等于多少|是多少|)？",
        "计算{a}-{b}",
    ),
    ("×", "en"): phrases(
        f"{_ASK_EN} {{a}} (x|×|times|*|multiplied by) {{b}}?",
        "{a} (x|×|*) {b}( = ?| =|)",
        "(Multiply|Please multiply) {a} (and|by) {b}.",
        "What is the product of {a} and {b}?",
        "{a} times {b} (is what?|equals?|makes?|is|equals what?)",
    ),
    ("×", "zh"): phrases(
        "(|请问|请问一下，|请计算|算一下|帮我算|你知道|告诉我)(|，){a}(乘|乘以|×|*){b}(等于多少|是多少|等于几|是几|得多少)(？|呢？|)",
        "{a}(乘|乘以){b}",
        "{a}(和|与|跟){b}的(积|乘积)(是多少|等于多少|是几)？",
        "计算{a}(×|*){b}",
    ),
}  # fmt: skip
_NAMES = {"+": "addition", "-": "subtraction", "×": "multiplication"}


def _equation(a: int, sign: str, b: int, result: int, language: Language) -> str:
    return f"{a} {sign} {b} = {result}{'.' if language == 'en' else '。'}"


def _stop_language(question: str, language: Language) -> Language:
    """Return the language of the answer's full stop: English for a formula without Chinese characters."""
    return language if any(c >= "\u4e00" for c in question) else "en"


def _exchange(
    rng: random.Random, sign: str, a: int, b: int, language: Language, wordings: Sequence[str] | None = None
) -> Exchange:
    result = {"+": a + b, "-": a - b, "×": a * b}[sign]
    # Sums and differences are held out by their operands, in any order and wording; products by the default rule.
    combination = None if sign == "×" else (_NAMES[sign], *sorted((a, b)))
    exchange = ask(
        rng, _NAMES[sign], language, wordings or WORDINGS[sign, language], ("",), combination=combination, a=a, b=b
    )
    answer = _equation(a, sign, b, result, _stop_language(exchange.question, language))
    held_out = exchange.new_combination or (sign, *sorted((a, b))) == SHOWN_SUM
    return replace(exchange, answer=answer, accepted=(answer,), new_combination=held_out)


def addition(rng: random.Random, language: Language) -> Exchange:
    """Return an addition such as ``17 + 25``; both operands are 0 to 99."""
    return _exchange(rng, "+", _operand(rng), _operand(rng), language)


def bare_sum(rng: random.Random, language: Language) -> Exchange:
    """Return an addition or subtraction typed as on a calculator. It has no words, so its language is "en"."""
    sign = rng.choice("++-")
    small, large = sorted((_operand(rng), _operand(rng)))
    wordings = formulas(WORDINGS[sign, "en"])
    a, b = (large, small) if sign == "-" or rng.random() < 0.5 else (small, large)
    return _exchange(rng, sign, a, b, "en", wordings)


def formulas(wordings: Sequence[str]) -> list[str]:
    """Return the wordings that contain no word, only operands and signs."""
    return [wording for wording in wordings if not any(map(str.isalpha, wording.format(a="", b="").replace("x", "")))]


def subtraction(rng: random.Random, language: Language) -> Exchange:
    """Return a subtraction such as ``42 - 25``; both operands are 0 to 99, and the result is not negative."""
    small, large = sorted((_operand(rng), _operand(rng)))
    if rng.random() < 0.2:  # close operands, so that the result has one digit
        large = min(small + rng.randint(0, 9), LARGEST_OPERAND)
    return _exchange(rng, "-", large, small, language)


def multiplication(rng: random.Random, language: Language) -> Exchange:
    """Return a multiplication such as ``6 × 7``; both factors are 0 to 10."""
    return _exchange(rng, "×", rng.randint(0, LARGEST_FACTOR), rng.randint(0, LARGEST_FACTOR), language)


def _operand(rng: random.Random) -> int:
    # People often try one-digit numbers first; with a uniform distribution these would be only one in ten.
    return rng.randint(0, 9) if rng.random() < 0.15 else rng.randint(0, LARGEST_OPERAND)


COUNT_UP = {
    "en": phrases(
        "(Count|Please count|Can you count|Could you count|Let's count|I want you to count) (from {a} to {b}|from {a} up to {b})."
    ),
    "zh": phrases(
        "(|请|你能|可以|帮我|请你|麻烦你)(从{a}数到{b}|从{a}开始数到{b}|从{a}一直数到{b}|由{a}数到{b})(。|吗？|吧。|)"
    ),
}  # fmt: skip
COUNT_DOWN = {
    "en": phrases(
        "(Count|Please count|Can you count|Could you count|Let's count|I want you to count)"
        " (backwards|down|back|backward) from {a} to {b}."
    ),
    "zh": phrases(
        "(|请|你能|可以|帮我|请你|麻烦你)(从{a}倒数到{b}|从{a}倒着数到{b}|从{a}往回数到{b}|由{a}倒数到{b})(。|吗？|吧。|)"
    ),
}  # fmt: skip
COUNT_FROM_ONE = {
    "en": phrases("(Count|Please count|Can you count|Could you count|Let's count) (to|up to) {b}."),
    "zh": phrases("(|请|你能|可以|帮我|请你)(数到{b}|从一数到{b}|数数到{b})(。|吗？|吧。|)"),
}


def counting(rng: random.Random, language: Language) -> Exchange:
    """Return a question such as ``Count from 3 to 9``: up or down, between 0 and 30, at most 15 numbers."""
    if rng.random() < 0.15:
        start, stop = 1, rng.randint(3, LONGEST_COUNT)
        wordings = COUNT_FROM_ONE[language]
    else:
        start, stop = _count_range(rng)
        wordings = (COUNT_UP if start < stop else COUNT_DOWN)[language]
    step = 1 if start < stop else -1
    numbers = [str(n) for n in range(start, stop + step, step)]
    answer = ", ".join(numbers) + "." if language == "en" else "、".join(numbers) + "。"
    return ask(rng, "counting", language, wordings, (answer,), combination=("counting", start, stop), a=start, b=stop)


def _count_range(rng: random.Random) -> tuple[int, int]:
    start = rng.randint(0, LARGEST_COUNT)
    stop = rng.randint(max(0, start - LONGEST_COUNT + 1), min(LARGEST_COUNT, start + LONGEST_COUNT - 1))
    return (start, stop) if abs(start - stop) > 1 else _count_range(rng)


def is_sum_held_out(sign: str, a: int, b: int) -> bool:
    """Return whether these operands are held out; statements of the corpus must not contain them."""
    low, high = sorted((a, b))
    return is_held_out(_NAMES[sign], low, high) or (sign, low, high) == SHOWN_SUM
