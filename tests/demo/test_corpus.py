"""The demo model's corpus: the same everywhere, true, and without anything that the evaluation asks."""

import random
import re
from collections import Counter
from dataclasses import replace
from itertools import chain

import pytest

from demo_recipe import corpus, evaluation, facts, grammar
from demo_recipe.exchange import Exchange
from demo_recipe.recipe import STAGES, Recipe
from demo_recipe.tasks import arithmetic, blanks

EXCHANGES = 12_000


@pytest.fixture(scope="module")
def sample() -> list[Exchange]:
    return list(corpus.exchanges(1, EXCHANGES))


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return list(corpus.texts(1, 3000))


@pytest.fixture(scope="module")
def held_out() -> list[Exchange]:
    return [exchange for language in corpus.LANGUAGES for exchange in evaluation.questions(language, 20)]


def test_pattern_expansion() -> None:
    assert grammar.expand("(Hi|Hello)( there|) {x}") == ["Hi there {x}", "Hi {x}", "Hello there {x}", "Hello {x}"]
    assert grammar.expand("no (group) at all") == ["no (group) at all"]


def test_normal_form() -> None:
    assert grammar.normalise(" Ｗhat IS １７＋２５？！ ") == "whatis17+25"
    assert grammar.normalise("你好，世界。") == "你好世界"


def test_corpus_is_a_function_of_the_seed(sample: list[Exchange], texts: list[str]) -> None:
    assert list(corpus.exchanges(1, 50)) == sample[:50]
    assert list(corpus.texts(1, 50)) == texts[:50]
    assert list(corpus.exchanges(2, 50)) != sample[:50]


def test_no_prompt_of_the_evaluation_is_in_the_corpus(sample: list[Exchange], held_out: list[Exchange]) -> None:
    """Nearly none to begin with; a question that is also another category's ("OK, thanks") is found and dropped."""
    known = evaluation.CorpusPrompts.of(sample)
    assert known.hold(sample[0])
    coincide = [exchange for exchange in held_out if known.hold(exchange)]
    assert len(coincide) < 0.01 * len(held_out)
    corpus_of_sample = Recipe(stages=(replace(STAGES[0], exchanges=EXCHANGES),))
    assert evaluation.disjoint(held_out, corpus_of_sample) == (
        [exchange for exchange in held_out if exchange not in coincide],
        len(coincide),
    )


def test_corpus_holds_nothing_held_out(sample: list[Exchange]) -> None:
    assert not any(exchange.held_out for exchange in sample)


def test_evaluation_asks_only_what_is_held_out(held_out: list[Exchange]) -> None:
    assert all(exchange.held_out for exchange in held_out)
    keys = Counter((e.category, e.language, corpus.prompt_key(e)) for e in held_out)
    assert keys.most_common(1)[0][1] == 1


_SUM = re.compile(r"(\d+) ([-+×]) (\d+) = (\d+)[.。]?")


def sums(sample: list[Exchange], texts: list[str]) -> list[tuple[str, int, int, int]]:
    """Every sum stated anywhere in the corpus."""
    said = chain((e.answer for e in sample), (a for e in sample for _, a in e.history), texts)
    found = chain.from_iterable(map(_SUM.findall, said))
    return [(sign, int(a), int(b), int(result)) for a, sign, b, result in found]


def test_sums_are_right_and_held_out_operands_appear_nowhere(sample: list[Exchange], texts: list[str]) -> None:
    stated = sums(sample, texts)
    assert len(stated) > 3000
    for sign, a, b, result in stated:
        assert {"+": a + b, "-": a - b, "×": a * b}[sign] == result
        assert sign == "×" or not arithmetic.is_sum_held_out(sign, a, b)


def test_the_shown_sum_is_held_out() -> None:
    assert arithmetic.is_sum_held_out("+", 17, 25)
    assert arithmetic.is_sum_held_out("+", 25, 17)


def test_held_out_share_of_sums() -> None:
    pairs = [(a, b) for a in range(100) for b in range(a, 100)]
    assert 0.06 < sum(arithmetic.is_sum_held_out("+", a, b) for a, b in pairs) / len(pairs) < 0.1


def test_held_out_statements_appear_in_no_text(texts: list[str]) -> None:
    rng = random.Random(0)
    statements = [blanks.statement(rng, language) for _ in range(1500) for language in corpus.LANGUAGES]
    # A short sentence may be the end of a framed one ("As we know, snow is white."): then it is another statement.
    held = {s.text for s in statements if s.held_out}
    assert len(held) > 60
    alone = set(texts)
    assert not held & alone


def test_names_of_the_evaluation_are_no_names_in_the_corpus(sample: list[Exchange], held_out: list[Exchange]) -> None:
    def names(exchanges: list[Exchange]) -> set[str]:
        pattern = re.compile(r"(?:Nice to meet you, |很高兴认识你，)(.+?)！?!?(?: I will|我记住|$)")
        answers = (a for e in exchanges for a in (*(a for _, a in e.history), e.answer))
        return {match[1] for answer in answers if (match := pattern.match(answer))}

    asked = {e.answer for e in held_out if e.category == "name"}
    assert len(asked) > 20
    said = {f"Your name is {name}." for name in names(sample)} | {f"你叫{name}。" for name in names(sample)}
    assert not asked & said


def test_each_word_has_one_opposite_and_one_translation() -> None:
    for pairs in (facts.OPPOSITES_EN, facts.OPPOSITES_ZH, facts.WORDS):
        counts = Counter(chain.from_iterable(pairs))
        assert [word for word, count in counts.items() if count > 1] == []
    for column in zip(*facts.COUNTRIES, strict=True):
        assert len(set(column)) == len(column)


def test_every_category_speaks_both_languages(sample: list[Exchange]) -> None:
    counts = Counter((exchange.category, exchange.language) for exchange in sample)
    categories = {category for category, _ in counts}
    assert len(categories) >= 18
    assert all(counts[category, language] > 20 for category in categories for language in corpus.LANGUAGES)


def test_answers_are_in_the_language_of_the_question(sample: list[Exchange]) -> None:
    hanzi = re.compile("[\u4e00-\u9fff]")
    formula = re.compile(r"[\d\s+×=-]+\.")
    for exchange in sample:
        if (
            exchange.is_blank
            or exchange.category in ("translation", "repeating", "gap in chat")
            or formula.fullmatch(exchange.answer)
        ):
            continue
        if exchange.language == "en":
            assert not hanzi.search(exchange.answer), exchange
        elif not re.fullmatch(r"[\d\s+×=、-]+。", exchange.answer):
            assert hanzi.search(exchange.answer), exchange
