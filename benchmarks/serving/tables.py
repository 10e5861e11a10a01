"""Write what was measured as Markdown tables."""

from collections.abc import Callable
from typing import Any

Format = Callable[[Any], str]


def _number(digits: int) -> Format:
    return lambda value: f"{value:,.{digits}f}"


def _share(value: float) -> str:
    return f"{value:.0%}"


# Of each part, and of benchmarks/gpu_serve.py: its title, and for each list of figures the heading of its column and
# how it is written.
_TABLES: dict[str, tuple[str, dict[str, tuple[str, Format]]]] = {
    "steps": (
        "Common steps",
        {
            "rows": ("rows", str),
            "ms": ("ms a step", _number(1)),
            "tokens_per_s": ("tokens/s", _number(1)),
            "ratio": ("times those of the first", _number(2)),
            "of_memory": ("of the memory limit", _share),
            "of_arithmetic": ("of the arithmetic limit", _share),
        },
    ),
    "gpu": (
        "Common steps",
        {
            "rows": ("rows", str),
            "ms": ("ms a step", _number(2)),
            "tokens_per_s": ("tokens/s", _number(0)),
            "ratio": ("times those of one row alone", _number(2)),
            "of_memory": ("of the memory limit", _share),
        },
    ),
    "prompts": (
        "Prompts",
        {
            "tokens": ("tokens", str),
            "seconds": ("s to the first token", _number(3)),
            "tokens_per_s": ("tokens/s", _number(1)),
            "of_memory": ("of the memory limit", _share),
            "of_arithmetic": ("of the arithmetic limit", _share),
        },
    ),
    "arrivals": (
        "A prompt arrives",
        {
            "tokens": ("tokens", str),
            "largest_gap_s": ("largest gap of the others, s", _number(3)),
            "usual_gap_s": ("usual gap, s", _number(3)),
            "first_token_s": ("first token of the newcomer, s", _number(3)),
            "first_token_alone_s": ("alone, s", _number(3)),
            "ratio": ("times as long", _number(2)),
        },
    ),
    "throughput": (
        "Through the engine",
        {
            "requests": ("requests", str),
            "at_once_tokens_per_s": ("at once, tokens/s", _number(0)),
            "in_turn_tokens_per_s": ("one after another, tokens/s", _number(0)),
            "ratio": ("times", _number(2)),
        },
    ),
    "sampling": (
        "Sampling",
        {
            "rows": ("rows", str),
            "ms": ("ms a step", _number(2)),
            "transformers_ms": ("transformers, ms", _number(2)),
        },
    ),
}


def markdown(part: str, tables: list[dict[str, Any]]) -> str:
    """Return a heading, and for each table a line on what it is of and its rows.

    Args:
        part: a name of a part of benchmarks/serve.py.
        tables: their figures; the lists are the columns of a table.
    """
    title, columns = _TABLES[part]
    return "\n\n".join([f"### {title}", *(f"{_introduction(table)}\n\n{_rows(columns, table)}" for table in tables)])


def _introduction(table: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in table.items() if not isinstance(value, list))


def _rows(columns: dict[str, tuple[str, Format]], table: dict[str, Any]) -> str:
    heading = [title for title, _ in columns.values()]
    cells = zip(*([form(value) for value in table[name]] for name, (_, form) in columns.items()), strict=True)
    lines = [heading, ["---:" for _ in columns], *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
