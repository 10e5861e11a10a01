"""Write the data of these tasks: questions that the demo model was never shown, from its recipe.

    python -m tests.evaluation.tasks.make_data

``demo_cloze.jsonl`` has the fields of GLM-130B's own task files (``docs/evaluate-your-own-tasks.md`` there).
"""

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from demo_recipe import corpus, facts
from demo_recipe.exchange import Language
from demo_recipe.tasks import arithmetic, blanks, knowledge

FOLDER = Path(__file__).parent
LANGUAGES: tuple[Language, ...] = ("en", "zh")
EACH = 20  # rows of a skill and language
SEED = 20261124


def cloze() -> Iterator[dict[str, Any]]:
    """Sentences with a blank, of which four words compete for it."""
    for language in LANGUAGES:
        pools = {"capitals": _capitals(language), "opposites": _opposites(language)}
        for skill, pool in pools.items():
            rng = random.Random(f"{SEED}/{skill}/{language}")
            sentences = _distinct(_statements(rng, language), lambda made, pool=pool: made.key in pool)
            for made in sentences:
                yield _row(rng, skill, language, made.masked, made.key, [w for w in pool if w not in made.text])
        yield from _sums(language)


def _statements(rng: random.Random, language: Language) -> Iterator[blanks.Statement]:
    while True:
        made = blanks.statement(rng, language)
        if made.held_out:
            yield made


def _distinct(found: Iterable[blanks.Statement], wanted: Any) -> Iterator[blanks.Statement]:
    seen: set[str] = set()
    for made in found:
        if wanted(made) and made.masked not in seen:
            seen.add(made.masked)
            yield made
        if len(seen) == EACH:
            return


def _capitals(language: Language) -> list[str]:
    return [row.capital_en if language == "en" else row.capital_zh for row in facts.COUNTRIES]


def _opposites(language: Language) -> list[str]:
    pairs = facts.OPPOSITES_EN if language == "en" else facts.OPPOSITES_ZH
    return list(dict.fromkeys(word for pair in pairs for word in pair))


def _sums(language: Language) -> Iterator[dict[str, Any]]:
    """Sums whose operands are held out in any wording; the wrong answers are near."""
    rng = random.Random(f"{SEED}/sums/{language}")
    operands = [(a, b) for a in range(21) for b in range(21) if arithmetic.is_sum_held_out("+", a, b)]
    for a, b in rng.sample(operands, EACH):
        near = [str(a + b + step) for step in (-10, -2, -1, 1, 2, 10) if a + b + step >= 0]
        end = "." if language == "en" else "。"
        yield _row(rng, "sums", language, f"{a} + {b} = {blanks.MASK}{end}", str(a + b), near)


def _row(
    rng: random.Random, skill: str, language: Language, text: str, right: str, wrong: Sequence[str]
) -> dict[str, Any]:
    choices = [right, *rng.sample(wrong, 3)]
    rng.shuffle(choices)
    return {
        "skill": skill,
        "language": language,
        "inputs_pretokenized": text,
        "choices_pretokenized": choices,
        "label": choices.index(right),
    }


def questions() -> Iterator[dict[str, Any]]:
    """Questions for the chat, each with the one answer that is right."""
    for language in LANGUAGES:
        for skill, task in {"capitals": knowledge.capital, "sums": arithmetic.addition}.items():
            for exchange in corpus.evaluation(SEED, task, language, EACH):
                (answer,) = exchange.accepted
                yield {"skill": skill, "language": language, "question": exchange.question, "answer": answer}


def main() -> None:
    for name, rows in (("demo_cloze", cloze()), ("demo_questions", questions())):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (FOLDER / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
