"""Measure chats through the engine: many at once, and a long prompt that arrives while others are written."""

import itertools
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from app.serving.conversation import Message
from app.serving.engine import Engine
from app.serving.jobs import encode
from app.serving.reply import Finished, Reply
from glm_model.generation.alone import run
from glm_model.generation.requests import Writer, changed
from glm_model.generation.stream import TextChunk, write_text
from glm_model.options import SamplingOptions

from .models import Loaded
from .rows import seconds

_LENGTHS = (16, 112)  # tokens of the shortest and the longest of several prompts
_PAIRS = 4  # of answers with the engine and without it in a round, since one is short
_SOME = 4  # tokens that a chat writes before anything else happens
_LONGEST_WAIT = 600.0  # seconds for anything, so that a fault ends the benchmark
_POLL = 0.002


def question(tokenizer: Any, tokens: int) -> list[Message]:
    """Return a conversation of one random message whose prompt has so many tokens, or a few more; never the same."""
    content = ""
    while True:
        messages = [Message(role="user", content=content)]
        missing = tokens - len(encode(tokenizer, messages))
        if missing <= 0:
            return messages
        # A letter is a token at the most, but for a space that its word begins with.
        content += "".join(random.choices(" abcdefghijklmnopqrstuvwxyz", k=max(1, missing // 2)))


def _sampling(tokenizer: Any, messages: list[Message], answer: int) -> SamplingOptions:
    return SamplingOptions(max_length=len(encode(tokenizer, messages)) + answer)


def measure_throughput(loaded: Loaded, requests: Sequence[int], answer: int, rounds: int) -> dict[str, Any]:
    """Return tokens per second of requests at once and one after another, and of one with and without the engine.

    The prompts have from 16 to 112 tokens, and the times of their computation are included. A ratio is that of two
    times of one round.

    Args:
        loaded: a model that never ends an answer by itself.
        requests: numbers of requests at once.
        answer: the number of tokens of each answer.
        rounds: the number of times that everything has its turn.
    """
    tokenizer = loaded.tokenizer
    together: list[list[float]] = []
    apart: list[list[float]] = []
    cost: list[tuple[float, float]] = []
    with Engine(loaded.model, tokenizer, queue_size=max(requests), most_rows=max(requests)) as engine:
        for number in range(rounds + 1):
            turns = [[_one(tokenizer, place, count, answer) for place in range(count)] for count in requests]
            at_once = [seconds(_at_once, engine, chats) for chats in turns]
            turns = [[_one(tokenizer, place, count, answer) for place in range(count)] for count in requests]
            in_turn = [seconds(_in_turn, engine, chats) for chats in turns]
            ways = [_engine_and_bare(engine, loaded, answer) for _ in range(_PAIRS)]
            if number:  # threads and pages are new in the first round
                together.append(at_once)
                apart.append(in_turn)
                cost += ways
    tokens = [count * answer for count in requests]
    return {
        "model": loaded.name,
        "requests": list(requests),
        "answer_tokens": answer,
        "at_once_tokens_per_s": _rates(tokens, together),
        "in_turn_tokens_per_s": _rates(tokens, apart),
        "ratio": [
            round(statistics.median(b / a for a, b in zip(one, other, strict=True)), 2)
            for one, other in zip(zip(*together, strict=True), zip(*apart, strict=True), strict=True)
        ],
        "engine_one_row_tokens_per_s": round(statistics.median(answer / engine for engine, _ in cost), 1),
        "bare_one_row_tokens_per_s": round(statistics.median(answer / bare for _, bare in cost), 1),
        "engine_of_bare": round(statistics.median(bare / engine for engine, bare in cost), 3),
    }


Chat = tuple[list[Message], SamplingOptions]


def _one(tokenizer: Any, place: int, count: int, answer: int) -> Chat:
    shortest, longest = _LENGTHS
    length = shortest + (longest - shortest) * place // max(1, count - 1)
    messages = question(tokenizer, length)
    return messages, _sampling(tokenizer, messages, answer)


def _at_once(engine: Engine, chats: list[Chat]) -> None:
    for reply in [engine.submit(*chat) for chat in chats]:
        _finish(reply)


def _in_turn(engine: Engine, chats: list[Chat]) -> None:
    for chat in chats:
        _finish(engine.submit(*chat))


def _finish(reply: Reply) -> None:
    *_, last = reply
    if not isinstance(last, Finished):
        raise RuntimeError(f"an answer has failed: {last}")


def _engine_and_bare(engine: Engine, loaded: Loaded, answer: int) -> tuple[float, float]:
    """Return the seconds of one answer through the engine, and of its writer by itself."""
    messages, sampling = _one(loaded.tokenizer, 1, 3, answer)
    through = seconds(lambda: _finish(engine.submit(messages, sampling)))
    prompt = encode(loaded.tokenizer, messages)
    writer = write_text(loaded.model, loaded.tokenizer, prompt, sampling)
    return through, seconds(lambda: list(run(loaded.model, writer)))


def _rates(tokens: list[int], rounds: list[list[float]]) -> list[float]:
    columns = zip(tokens, zip(*rounds, strict=True), strict=True)
    return [round(statistics.median(count / taken for taken in column), 1) for count, column in columns]


@dataclass
class TimedWriters:
    """Makes the writers of an engine's chats, and notes when each of their tokens was written.

    Attributes:
        times: of each chat, in the order in which they began, on the clock of :func:`time.monotonic`.
    """

    times: list[list[float]] = field(default_factory=list)

    def __call__(self, *arguments: Any) -> Writer[TextChunk, None]:
        """Return the writer of :func:`write_text` with these arguments."""
        times: list[float] = []
        self.times.append(times)

        def note(chunk: TextChunk) -> TextChunk:
            times.append(time.monotonic())
            return chunk

        return changed(write_text(*arguments), note)


def measure_arrivals(loaded: Loaded, rows: int, context: int, lengths: Sequence[int], rounds: int) -> dict[str, Any]:
    """Return what a long prompt that arrives costs those who are reading, and what they cost it.

    Args:
        loaded: a model that never ends an answer by itself.
        rows: the number of chats that are written.
        context: the length of their prompts.
        lengths: of the prompts that arrive, one after the other.
        rounds: the number of times that each arrives, alone and in company by turns.

    Returns:
        Lists of medians, one entry for each length: the largest gap between two tokens of a chat from the arrival until
        the newcomer writes, the usual gap, and the seconds to the newcomer's first token in company and alone.
    """
    results: dict[str, Any] = {"model": loaded.name, "rows": rows, "context": context, "tokens": []}
    for length in lengths:
        found = [_arrival(loaded, rows, context, length) for _ in range(rounds)]
        results["tokens"].append(length)
        for name in found[0]:
            results.setdefault(name, []).append(round(statistics.median(one[name] for one in found), 3))
    return results


def _arrival(loaded: Loaded, rows: int, context: int, length: int) -> dict[str, float]:
    alone_arrived, (alone,) = _written(loaded, 0, context, length)
    arrived, (*others, newcomer) = _written(loaded, rows, context, length)
    gaps = [gap for times in others for gap in _gaps(times, arrived, newcomer[0])]
    usual = [gap for times in others for gap in _gaps(times, times[0], arrived)]
    first_token, first_token_alone = newcomer[0] - arrived, alone[0] - alone_arrived
    return {
        "largest_gap_s": max(gaps),
        "usual_gap_s": statistics.median(usual),
        "first_token_s": first_token,
        "first_token_alone_s": first_token_alone,
        "ratio": first_token / first_token_alone,
    }


def _written(loaded: Loaded, rows: int, context: int, length: int) -> tuple[float, list[list[float]]]:
    """Return when a prompt has arrived beside so many chats, and when the tokens of them and of its answer came."""
    tokenizer, longest = loaded.tokenizer, int(loaded.model.config.max_sequence_length)
    sampling, writers = SamplingOptions(max_length=longest), TimedWriters()
    with Engine(
        loaded.model, tokenizer, most_rows=rows + 1, cache_tokens=(rows + 1) * longest, write_text=writers
    ) as engine:
        for _ in range(rows):
            engine.submit(question(tokenizer, context), sampling)
        _wait_for(rows, writers, engine)
        messages = question(tokenizer, length)
        arrived = time.monotonic()
        engine.submit(messages, sampling)
        _wait_for(rows + 1, writers, engine)
    return arrived, writers.times


def _wait_for(chats: int, writers: TimedWriters, engine: Engine) -> None:
    """Wait until so many chats have written some tokens."""
    deadline = time.monotonic() + _LONGEST_WAIT
    while len(writers.times) < chats or any(len(times) <= _SOME for times in writers.times):
        if engine.state.failed or time.monotonic() > deadline:
            raise RuntimeError("the engine does not answer")
        time.sleep(_POLL)


def _gaps(times: list[float], start: float, end: float) -> list[float]:
    """Return the gaps between tokens that lie, at least in part, between two moments."""
    return [late - early for early, late in itertools.pairwise(times) if late > start and early < end]
