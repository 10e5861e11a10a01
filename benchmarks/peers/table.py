"""The table of what was measured, with every figure's ratio to this repository's."""

from typing import Any

from .shape import packed_bytes

READ = "read GB/s"


def print_table(lines: list[dict[str, Any]]) -> None:
    """One block for each part: programs below each other; in brackets how many times as fast this repository is."""
    for line in lines:
        programs = {name: values for name, values in line["programs"].items() if name != READ}
        print(f"\n{line['cpu']}, {line['threads']} threads, {line['date']}: {_title(line)}")
        for name, values in programs.items():
            cells = [_cell(key, value, programs.get("glm", {}).get(key)) for key, value in values.items()]
            print(f"  {name:22}" + "".join(f"{cell:>36}" for cell in cells if cell))


def _title(line: dict[str, Any]) -> str:
    if line["part"] == "start":
        return "process start to first token"
    bandwidth = line["programs"][READ]
    limit = packed_bytes() / bandwidth / 1e6
    return f"context {line['part']}; memory reads {bandwidth} GB/s, so {limit:.0f} ms for all packed weights"


def _cell(name: str, value: Any, ours: float | None) -> str:
    if isinstance(value, list):
        return ""
    ratio = ""
    if ours:
        ratio = f" [{ours / value if name == 'prefill_tokens_per_s' else value / ours:.2f}]"
    return f"{name} {value}{ratio}"
