"""Measure common steps of several rows and prompts, next to the limits of this machine."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from .limits import Machine, Speed, Work, work_of_prompt, work_of_step
from .models import Loaded
from .rows import ReadyRows, prompt_seconds, random_prompt, seconds

Table = dict[str, Any]
"""Figures of one kind, as the JSON line has them: lists, one entry for each number of rows or length."""


@dataclass(frozen=True)
class _Turn:
    """How long a pass took, and what the machine did just before."""

    seconds: float
    speed: Speed


def measure_steps(loaded: Loaded, context: int, rows: Sequence[int], rounds: int, tokens: int) -> Table:
    """Return the milliseconds of a step by the number of rows, which take turns.

    Args:
        loaded: the model.
        context: the length of every row's prompt.
        rows: the numbers of rows, the first of which the others are compared with.
        rounds: the number of times that each number of rows has its turn.
        tokens: the number of steps in a turn, of which the median counts.
    """
    machine = Machine(loaded.model)
    ready = ReadyRows(loaded.model, random_prompt(loaded.model, context), max(rows))
    for count in rows:
        ready.step(count)  # threads and pages are new

    def turn(count: int) -> float:
        return statistics.median(seconds(ready.step, count) for _ in range(tokens))

    turns = _in_turns(machine, [partial(turn, count) for count in rows], rounds)
    ready.leave()
    taken = _seconds(turns)
    return {
        "model": loaded.name,
        "context": context,
        "rows": list(rows),
        "ms": [_rounded(1e3 * one) for one in taken],
        "tokens_per_s": [_rounded(count / one) for count, one in zip(rows, taken, strict=True)],
        "ratio": [
            _median(count * first.seconds / (rows[0] * one.seconds) for first, one in zip(turns[0], own, strict=True))
            for count, own in zip(rows, turns, strict=True)
        ],
        **_shares([work_of_step(loaded.model, count, context) for count in rows], turns),
    }


def measure_prompts(loaded: Loaded, lengths: Sequence[int], rounds: int) -> Table:
    """Return the seconds from a prompt to its first token by its length; the lengths take turns."""
    machine = Machine(loaded.model)
    prompt_seconds(loaded.model, min(lengths))  # threads and pages are new
    turns = _in_turns(machine, [partial(prompt_seconds, loaded.model, length) for length in lengths], rounds)
    taken = _seconds(turns)
    return {
        "model": loaded.name,
        "tokens": list(lengths),
        "seconds": [_rounded(one) for one in taken],
        "tokens_per_s": [_rounded(length / one) for length, one in zip(lengths, taken, strict=True)],
        **_shares([work_of_prompt(loaded.model, length) for length in lengths], turns),
    }


def _in_turns(machine: Machine, passes: Sequence[Callable[[], float]], rounds: int) -> list[list[_Turn]]:
    """Return the turns of each pass, one in each round.

    Args:
        machine: is measured before each turn.
        passes: return their own seconds.
        rounds: the number of rounds.
    """
    turns: list[list[_Turn]] = [[] for _ in passes]
    for _ in range(rounds):
        for own, run in zip(turns, passes, strict=True):
            speed = machine.speed()
            own.append(_Turn(run(), speed))
    return turns


def _seconds(turns: list[list[_Turn]]) -> list[float]:
    return [statistics.median(turn.seconds for turn in own) for own in turns]


def _shares(work: list[Work], turns: list[list[_Turn]]) -> Table:
    """Return what passes reach of both limits, by the speeds of their turns, and the medians of all speeds."""
    limits = [[(turn.seconds, *one.seconds(turn.speed)) for turn in own] for one, own in zip(work, turns, strict=True)]
    speeds = [turn.speed for own in turns for turn in own]
    return {
        "of_memory": [_median(memory / taken for taken, memory, _ in own) for own in limits],
        "of_arithmetic": [_median(arithmetic / taken for taken, _, arithmetic in own) for own in limits],
        "read_GBps": _median(speed.read / 1e9 for speed in speeds),
        "integer_GMACps": _median(speed.integers / 1e9 for speed in speeds),
        "float_GMACps": _median(speed.floats / 1e9 for speed in speeds),
    }


def _median(values: Iterable[float]) -> float:
    return _rounded(statistics.median(values))


def _rounded(value: float) -> float:
    """Return a figure with four digits."""
    return float(f"{value:.4g}")
