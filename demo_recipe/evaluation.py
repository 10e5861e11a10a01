"""Measure how well a demo model answers questions that it has not seen in training.

Every question is held out (see `grammar.is_held_out`) and is checked against every prompt of the corpus. An answer is
right if it equals one of the accepted answers; a part of it, or the same in the other language, is wrong.
"""

import itertools
import json
import random
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from glm_model import ChatGLMForCausalLM
from glm_model.generation.batch import Batch, Member
from glm_model.generation.stream import TextChunk, write_text
from glm_model.loading import load
from glm_model.options import SamplingOptions
from glm_model.text.tokenizer import ChatGLMTokenizer

from . import corpus
from .exchange import Exchange, Language, Round
from .grammar import normalise
from .recipe import Recipe, prompt_ids, special_ids
from .tasks import blanks

# The mixtures were chosen with the questions of another seed, so these questions are new.
SEED = 20261124
LONGEST_ANSWER = 96
_BATCH = 32
# The category of questions that follow two rounds on something else.
FOLLOW_UP = "follow-up"
# The category of questions that follow visitors' statements, and that of the statements, which are to be acknowledged.
CHANGE, NOTING = "change of subject", "noting"
_FOLLOW_UP_TASKS = [task for task in corpus.TASKS if task is not blanks.chat_blank]


def questions(language: Language, count: int, seed: int = SEED) -> list[Exchange]:
    """Return the held-out questions of a language, up to `count` for each category."""
    found: list[Exchange] = []
    for task in (*corpus.TASKS, blanks.fill_blank):
        found += corpus.evaluation(seed, task, language, count)
    memory = corpus.evaluation(seed, None, language, 3 * count)
    for category in ("name", "preference"):
        found += [exchange for exchange in memory if exchange.category == category][:count]
    found += [replace(e, category=NOTING) for e in corpus.evaluation(seed + 2, corpus.noting, language, count)]
    return found + follow_ups(language, count, seed) + changes_of_subject(language, count, seed)


def follow_ups(language: Language, count: int, seed: int = SEED) -> list[Exchange]:
    """Return held-out questions of all categories after two rounds on something else."""
    return _of_all(FOLLOW_UP, language, count, seed + 1, lambda rng: corpus.history(rng, language, 2))


def changes_of_subject(language: Language, count: int, seed: int = SEED) -> list[Exchange]:
    """Return held-out questions of all categories after one or two statements of the visitor about themselves."""
    return _of_all(CHANGE, language, count, seed + 3, lambda rng: corpus.telling(rng, language, rng.choice((1, 2))))


def _of_all(
    category: str, language: Language, count: int, seed: int, before: Callable[[random.Random], list[Round]]
) -> list[Exchange]:
    each = -(-count // len(_FOLLOW_UP_TASKS))
    tasks = (corpus.evaluation(seed, task, language, each, before) for task in _FOLLOW_UP_TASKS)
    return [replace(exchange, category=category) for exchange in itertools.chain.from_iterable(tasks)][:count]


@dataclass(frozen=True)
class CorpusPrompts:
    """All prompts and questions of the corpus, in normal form."""

    prompts: frozenset[str]
    questions: frozenset[str]

    @classmethod
    def of(cls, exchanges: Iterable[Exchange]) -> "CorpusPrompts":
        """Return the whole prompts, and the single questions of every round."""
        prompts: set[str] = set()
        asked: set[str] = set()
        for exchange in exchanges:
            prompts.add(corpus.prompt_key(exchange))
            asked.add(normalise(exchange.question))
            asked.update(normalise(question) for question, _ in exchange.history)
        return cls(frozenset(prompts), frozenset(asked))

    def hold(self, exchange: Exchange) -> bool:
        """Return whether the corpus has this prompt, or its question in any conversation if it needs no history."""
        if corpus.prompt_key(exchange) in self.prompts:
            return True
        needs_history = exchange.category in ("name", "preference")
        return not needs_history and normalise(exchange.question) in self.questions


@dataclass(frozen=True)
class Judged:
    """A question and the model's answer to it."""

    exchange: Exchange
    answer: str

    @property
    def right(self) -> bool:
        """The answer equals an accepted one, except for Unicode width and outer spaces."""
        return _plain(self.answer) in map(_plain, self.exchange.accepted)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip()


def answer_all(
    model: ChatGLMForCausalLM,
    tokenizer: ChatGLMTokenizer,
    exchanges: Sequence[Exchange],
    options: SamplingOptions,
) -> list[Judged]:
    """Return the model's answers, written as in the front-ends, many at the same time."""
    torch.manual_seed(options.seed or 0)
    special = special_ids(tokenizer)
    prompts = [prompt_ids(e, tokenizer) + ([] if e.is_blank else [special.gmask]) + [special.sop] for e in exchanges]
    batch, left = Batch(model), deque(enumerate(prompts))
    numbers: dict[Member, int] = {}
    texts = [""] * len(prompts)
    with tqdm(total=len(prompts), desc="answers") as progress:
        while left or len(batch):
            while left and len(batch) < _BATCH:
                number, prompt = left.popleft()
                own = replace(options, max_length=len(prompt) + LONGEST_ANSWER)
                numbers[batch.insert(write_text(model, tokenizer, prompt, own))] = number
            for member, item in batch.turn():
                if isinstance(item, TextChunk):
                    texts[numbers[member]] += item.text
                    continue
                progress.update()
                if item.error is not None:
                    raise item.error
    return [Judged(exchange, text) for exchange, text in zip(exchanges, texts, strict=True)]


@dataclass(frozen=True)
class Report:
    """The numbers of right answers and of questions, by (category, language)."""

    counts: dict[tuple[str, str], tuple[int, int]]

    @classmethod
    def of(cls, judged: Iterable[Judged]) -> "Report":
        """Return the counts by category and language."""
        asked: Counter[tuple[str, str]] = Counter()
        right: Counter[tuple[str, str]] = Counter()
        for one in judged:
            key = (one.exchange.category, one.exchange.language)
            asked[key] += 1
            right[key] += one.right
        return cls({key: (right[key], asked[key]) for key in asked})

    def share(self, category: str, language: str) -> float:
        """Return the share of right answers of a category and language, 0 to 1."""
        right, asked = self.counts[category, language]
        return right / asked

    @property
    def lowest(self) -> float:
        """The lowest share of right answers of a category and language, 0 to 1."""
        return min(right / asked for right, asked in self.counts.values())

    def table(self) -> str:
        """Return a Markdown table with a row for each category."""
        lines = ["| category | English | Chinese |", "|---|---|---|"]
        for category in dict.fromkeys(category for category, _ in self.counts):
            lines.append(_row(category, [self.counts.get((category, language)) for language in corpus.LANGUAGES]))
        totals = [self._total(language) for language in corpus.LANGUAGES]
        return "\n".join([*lines, _row("all", totals)])

    def _total(self, language: str) -> tuple[int, int]:
        counts = [count for (_, spoken), count in self.counts.items() if spoken == language]
        return sum(right for right, _ in counts), sum(asked for _, asked in counts)

    def as_json(self) -> dict[str, list[int]]:
        """Return ``{"capitals/en": [right, asked], ...}``."""
        return {f"{category}/{language}": list(count) for (category, language), count in self.counts.items()}


def _row(name: str, counts: Sequence[tuple[int, int] | None]) -> str:
    cells = ("-" if count is None else f"{count[0]}/{count[1]} ({count[0] / count[1]:.0%})" for count in counts)
    return f"| {name} | {' | '.join(cells)} |"


def disjoint(
    exchanges: Sequence[Exchange], recipe: Recipe, progress: Callable[..., Iterable[Exchange]] = tqdm
) -> tuple[list[Exchange], int]:
    """Return the exchanges that the recipe's whole corpus does not contain, and the number of those that it does."""
    count = sum(stage.exchanges for stage in recipe.stages)
    corpora = itertools.chain.from_iterable(stage.instructions() for stage in recipe.stages)
    known = CorpusPrompts.of(progress(corpora, "corpus", count))
    unknown = [exchange for exchange in exchanges if not known.hold(exchange)]
    return unknown, len(exchanges) - len(unknown)


def evaluate(
    folder: Path,
    count: int,
    *,
    seed: int = SEED,
    sampled: bool = False,
    quantize: str | None = None,
    failures: bool = False,
) -> Report:
    """Evaluate a demo model, print the table and one line of JSON, and return the report.

    Args:
        folder: the folder of the model.
        count: the largest number of questions for each category and language.
        seed: the seed with which the held-out questions are drawn.
        sampled: answer at the chat's default temperature and top-p (seeded) instead of greedily.
        quantize: "int8" or "int4" to evaluate the quantized model.
        failures: print every wrong answer.
    """
    model, tokenizer = load(folder, device="cpu", quantize=quantize)
    options = SamplingOptions(seed=seed) if sampled else SamplingOptions(temperature=0.0)
    drawn = [exchange for language in corpus.LANGUAGES for exchange in questions(language, count, seed)]
    asked, dropped = disjoint(drawn, Recipe())
    judged = answer_all(model, tokenizer, asked, options)
    report = Report.of(judged)
    if failures:
        print(*(_failure(one) for one in judged if not one.right), sep="\n")
    print(report.table())
    figures = {
        "model": str(folder),
        "weights": quantize or "float32",
        "decoding": "sampled" if sampled else "greedy",
        "seed": seed,
        "questions": len(asked),
        "in_corpus_and_dropped": dropped,
        "right": sum(one.right for one in judged),
        "lowest": round(report.lowest, 4),
        "right_and_asked": report.as_json(),
    }
    print(json.dumps(figures))
    return report


def _failure(one: Judged) -> str:
    e = one.exchange
    return f"[{e.category}/{e.language}] {e.history} {e.question!r} -> {one.answer!r}, not {e.accepted[0]!r}"
