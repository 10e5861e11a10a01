"""Medians over the rounds, and the Markdown table of each part."""

import statistics
from collections.abc import Callable
from typing import Any

from .measure import ROWS
from .shape import packed_bytes

Figures = dict[str, float]
# What the figures of a round are called in the table, and how they are written there.
COLUMNS: dict[str, tuple[str, Callable[[float, Any], str]]] = {
    "cold_s": ("cold, s", lambda value, _: f"{value:.2f}"),
    "warm_s": ("warm, s", lambda value, _: f"{value:.2f}"),
    "decode_s": ("decoding, ms/token", lambda value, _: f"{value * 1e3:.1f}"),
    "share": ("of the read bandwidth", lambda value, _: f"{value:.0%}"),
    **{f"rows_{rows}_s": (f"{rows} at once, ms/token", lambda value, _: f"{value * 1e3:.1f}") for rows in ROWS},
    "prompt_s": ("prompt, tokens/s", lambda value, part: f"{int(part) / value:.1f}"),
    "peak_bytes": ("peak memory, GB", lambda value, _: f"{value / 1e9:.2f}"),
}
TIMES = ("cold_s", "warm_s", "decode_s", "prompt_s", *(f"rows_{rows}_s" for rows in ROWS))
PLACE = ("part", "threads", "cpu", "date")  # what rounds of one table have in common
TITLES = {"start": "Process start to first token", "rows": "Decoding several sequences at once"}


def summaries(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the lines of the results say of each part, number of threads, CPU and day; see :func:`summary`."""
    groups: dict[tuple[Any, ...], list[dict[str, Figures]]] = {}
    for line in lines:
        groups.setdefault(tuple(line[key] for key in PLACE), []).append(line["round"])
    return [{**dict(zip(PLACE, place, strict=True)), **summary(rounds)} for place, rounds in groups.items()]


def summary(rounds: list[dict[str, Figures]]) -> dict[str, Any]:
    """For each program its figures, and what it takes in times of the first program's time in the same round.

    Args:
        rounds: as :mod:`.measure` yields them; a figure need not be in every round.

    Returns:
        ``rounds``, their number; ``bytes_per_second``, if measured; ``programs``: {name: {figure: median over the
        rounds (the highest, of memory), "ratio NAME": the median ratio of a time}}.
    """
    measured = [{name: figures for name, figures in one.items() if name != "memory"} for one in rounds]
    names = list(dict.fromkeys(name for one in measured for name in one))
    base = "glm" if "glm" in names else names[0]
    result: dict[str, Any] = {"rounds": len(rounds)}
    if any("memory" in one for one in rounds):
        result["bytes_per_second"] = statistics.median(one["memory"]["bytes_per_second"] for one in rounds)
    result["programs"] = {name: _program(name, base, measured) for name in names}
    return result


def _program(name: str, base: str, rounds: list[dict[str, Figures]]) -> Figures:
    result: Figures = {}
    for figure in COLUMNS:
        both = [(one.get(name, {}).get(figure), one.get(base, {}).get(figure)) for one in rounds]
        values = [value for value, _ in both if value is not None]
        ratios = [value / ours for value, ours in both if value is not None and ours is not None]
        if values:
            result[figure] = max(values) if figure == "peak_bytes" else statistics.median(values)
        if ratios and figure in TIMES:
            result[f"ratio {figure}"] = statistics.median(ratios)
    return result


def markdown(part: dict[str, Any]) -> str:
    """A heading, a line on the machine, and the table, in which a time's ratio stands in brackets."""
    programs = part["programs"]
    shown = [figure for figure in COLUMNS if any(figure in figures for figures in programs.values())]
    rows = [["", *(COLUMNS[figure][0] for figure in shown)], ["---", *("---:" for _ in shown)]]
    rows += [[name, *(_cell(figure, figures, part["part"]) for figure in shown)] for name, figures in programs.items()]
    machine = f"{part['cpu']}, {part['threads']} threads, {part['date']}, {part['rounds']} rounds{_limit(part)}."
    title = TITLES.get(part["part"], f"After {part['part']} tokens")
    return "\n".join([f"### {title}", "", machine, "", *(f"| {' | '.join(row)} |" for row in rows)])


def _limit(part: dict[str, Any]) -> str:
    bandwidth = part.get("bytes_per_second")
    if bandwidth is None:
        return ""
    return (
        f"; memory reads {bandwidth / 1e9:.1f} GB/s: {packed_bytes() / bandwidth * 1e3:.1f} ms for all packed weights"
    )


def _cell(figure: str, figures: Figures, part: str) -> str:
    if figure not in figures:
        return ""
    ratio = figures.get(f"ratio {figure}")
    return COLUMNS[figure][1](figures[figure], part) + (f" ({ratio:.2f})" if ratio is not None else "")
