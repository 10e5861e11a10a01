"""Measure common steps of several rows and prompts, next to the limits of this machine."""

import statistics
from collections.abc import Sequence
from typing import Any

from .limits import Machine, Speed, Work, work_of_prompt, work_of_step
from .models import Loaded
from .rows import ReadyRows, prompt_seconds, random_prompt, seconds

Table = dict[str, Any]
"""Figures of one kind, as the JSON line has them: lists, one entry for each number of rows or length."""


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
    work = [work_of_step(loaded.model, count, context) for count in rows]
    for count in rows:
        ready.step(count)  # threads and pages are new
    speeds, times = [], []
    for _ in range(rounds):
        speeds.append(machine.speed())
        times.append([statistics.median(seconds(ready.step, n) for _ in range(tokens)) for n in rows])
    ready.leave()
    return {
        "model": loaded.name,
        "context": context,
        "rows": list(rows),
        "ms": _medians([[1e3 * taken for taken in one] for one in times]),
        "tokens_per_s": _medians([[n / taken for n, taken in zip(rows, one, strict=True)] for one in times]),
        "ratio": _medians([[n * one[0] / rows[0] / t for n, t in zip(rows, one, strict=True)] for one in times]),
        **_shares(work, speeds, times),
    }


def measure_prompts(loaded: Loaded, lengths: Sequence[int], rounds: int) -> Table:
    """Return the seconds from a prompt to its first token by its length; the lengths take turns."""
    machine = Machine(loaded.model)
    work = [work_of_prompt(loaded.model, length) for length in lengths]
    prompt_seconds(loaded.model, min(lengths))
    speeds, times = [], []
    for _ in range(rounds):
        speeds.append(machine.speed())
        times.append([prompt_seconds(loaded.model, length) for length in lengths])
    return {
        "model": loaded.name,
        "tokens": list(lengths),
        "seconds": _medians(times),
        "tokens_per_s": _medians([[n / taken for n, taken in zip(lengths, one, strict=True)] for one in times]),
        **_shares(work, speeds, times),
    }


def _shares(work: list[Work], speeds: list[Speed], times: list[list[float]]) -> Table:
    """Return what a pass reaches of both limits, by those of its round, and what the machine did in the medians."""
    shares = [
        [(memory / taken, arithmetic / taken) for (memory, arithmetic), taken in zip(limits, one, strict=True)]
        for limits, one in zip(([one.seconds(speed) for one in work] for speed in speeds), times, strict=True)
    ]
    return {
        "of_memory": _medians([[memory for memory, _ in one] for one in shares]),
        "of_arithmetic": _medians([[arithmetic for _, arithmetic in one] for one in shares]),
        "read_GBps": round(statistics.median(speed.read for speed in speeds) / 1e9, 1),
        "integer_GMACps": round(statistics.median(speed.integers for speed in speeds) / 1e9, 1),
        "float_GMACps": round(statistics.median(speed.floats for speed in speeds) / 1e9, 1),
    }


def _medians(rounds: list[list[float]]) -> list[float]:
    """Return the median of each column, rounded to four digits."""
    return [float(f"{statistics.median(column):.4g}") for column in zip(*rounds, strict=True)]
