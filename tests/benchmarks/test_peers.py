"""The logic of benchmarks/peers, without the programs that it compares."""

import json
import math
import os
import sys
from pathlib import Path

import numpy
import pytest

from benchmarks.peers import __main__ as command
from benchmarks.peers import measure, process, shape, write_gguf
from benchmarks.peers.process import Process
from benchmarks.peers.table import markdown, summaries, summary


def test_ratios_are_those_of_the_same_round() -> None:
    """A machine that halves its speed for a round changes the median of neither ratio."""
    slow_for_one = [{"glm": {"decode_s": s}, "peer": {"decode_s": 1.5 * s}} for s in (0.1, 0.2, 0.1)]
    slow_within = [{"glm": {"decode_s": 0.1}, "peer": {"decode_s": 0.3}}]
    peer = summary(slow_for_one + slow_within)["programs"]["peer"]
    assert peer["ratio decode_s"] == pytest.approx(1.5)
    assert peer["decode_s"] == pytest.approx(0.225)


def test_figures_that_only_some_rounds_have() -> None:
    rounds = [
        {"memory": {"bytes_per_second": 4e10}, "peer": {"decode_s": 0.2, "prompt_s": 8.0, "peak_bytes": 1e9}},
        {"memory": {"bytes_per_second": 6e10}, "peer": {"decode_s": 0.4, "peak_bytes": 3e9}},
        {"memory": {"bytes_per_second": 5e10}, "peer": {"decode_s": 0.3, "peak_bytes": 2e9}},
    ]
    result = summary(rounds)
    assert result["bytes_per_second"] == 5e10
    assert result["programs"]["peer"] == pytest.approx(
        {"decode_s": 0.3, "prompt_s": 8.0, "peak_bytes": 3e9, "ratio decode_s": 1.0, "ratio prompt_s": 1.0}
    )


def line(part: str, date: str, **programs: dict[str, float]) -> dict[str, object]:
    return {"part": part, "threads": 4, "cpu": "a CPU", "date": date, "round": programs}


def test_rounds_of_one_day_belong_together() -> None:
    lines = [line("rows", day, glm={"decode_s": 1.0}) for day in ("2026-01-01", "2026-01-01", "2026-01-02")]
    assert [(part["date"], part["rounds"]) for part in summaries(lines)] == [("2026-01-01", 2), ("2026-01-02", 1)]


def test_table_is_markdown() -> None:
    programs = {
        "glm": {"decode_s": 0.05, "share": 0.9, "prompt_s": 4.0, "peak_bytes": 3.5e9},
        "peer": {"decode_s": 0.06, "prompt_s": 16.0},
    }
    text = markdown(summaries([line("512", "2026-01-01", memory={"bytes_per_second": 5e10}, **programs)])[0])
    assert "| glm | 50.0 (1.00) | 90% | 128.0 (1.00) | 3.50 |" in text
    assert "| peer | 60.0 (1.20) |  | 32.0 (4.00) |  |" in text
    assert "memory reads 50.0 GB/s: 61.7 ms" in text  # 28 layers and the head in 4 bits: 3.086 GB
    assert len({row.count("|") for row in text.splitlines() if row.startswith("|")}) == 1


class FakeProcess:
    """Answers at once, and keeps what it was asked."""

    started = 0.0

    def __init__(self, name: str, log: list[tuple[str, dict[str, object]]]) -> None:
        self.name, self.log = name, log

    def ask(self, **asked: object) -> dict[str, object]:
        self.log.append((self.name, asked))
        slowness = 2.0 if self.name == "chatglm.cpp" else 1.0
        answers: dict[str, dict[str, object]] = {
            "prompt": {"seconds": slowness},
            "decode": {"seconds": [slowness, slowness, 9.0]},
            "read": {"bytes_per_second": 4e9},
            "memory": {"peak_bytes": 7},
        }
        return answers[next(iter(asked))]

    def __enter__(self) -> "FakeProcess":
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, object]]]:
    log: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr(measure, "open_program", lambda name, _: FakeProcess(name, log))
    monkeypatch.setattr(measure, "forget", lambda name, _: log.append((name, {"forget": True})))
    return log


def setting(*programs: str, **changes: int) -> measure.Setting:
    values = {"threads": 4, "fastllm_threads": 3, "rounds": 4, "tokens": 3, **changes}
    return measure.Setting(folder=Path("nowhere"), programs=list(programs or ("glm", "chatglm.cpp")), **values)


def test_programs_take_turns_and_long_prompts_are_rare(asked: list[tuple[str, dict[str, object]]]) -> None:
    rounds = list(measure.PARTS["512"](setting()))
    assert ["prompt_s" in one["glm"] for one in rounds] == [True, False, False, True]
    assert [name for name, what in asked if "decode" in what] == ["glm", "chatglm.cpp"] * 4
    assert rounds[1]["chatglm.cpp"] == {"decode_s": 2.0, "peak_bytes": 7}
    assert rounds[1]["glm"]["share"] == pytest.approx(3.086 / 4, rel=1e-3)


def test_start_is_cold_once(asked: list[tuple[str, dict[str, object]]]) -> None:
    cold, *warm = measure.PARTS["start"](setting())
    assert all(set(figures) == {"cold_s"} for figures in cold.values())
    assert len(warm) == 4
    assert all(set(figures) == {"warm_s"} for one in warm for figures in one.values())
    assert [name for name, what in asked if "forget" in what] == [*measure.IMPORTS, "glm", "chatglm.cpp"]


def test_rows_are_asked_in_turns_of_those_who_take_them(asked: list[tuple[str, dict[str, object]]]) -> None:
    rounds = list(measure.PARTS["rows"](setting("glm", "chatglm.cpp", "llama.cpp", rounds=2)))
    figures = {f"rows_{rows}_s": 1.0 for rows in (1, 8, 16, 32)}
    assert rounds == 2 * [{"glm": figures, "llama.cpp": figures}]
    prompts, decoded = asked[:2], asked[2:]
    assert [(name, what["prompt"], what["rows"]) for name, what in prompts] == [("glm", 64, 32), ("llama.cpp", 64, 32)]
    turns = [(name, rows) for rows in (1, 8, 16, 32) for name in ("glm", "llama.cpp")]
    assert [(name, what["rows"]) for name, what in decoded] == 2 * turns


def test_llama_cpp_reads_as_many_weights() -> None:
    ours = sum(math.prod(tensor.shape) for tensor in shape.tensors() if tensor.kind in ("linear", "embedding"))
    theirs = sum(math.prod(size) for name, size in write_gguf.tensors() if not name.startswith("token_embd"))
    assert theirs == pytest.approx(ours, rel=1e-3)


def test_blocks_for_llama_cpp() -> None:
    """Each block of 32 weights is a half scale and 16 random bytes."""
    packed = write_gguf.values((3, 64), numpy.random.default_rng(0))
    assert packed.shape == write_gguf.stored_shape((3, 64)) == (3, 36)
    blocks = packed.reshape(6, 18)
    assert blocks[:, :2].copy().view(numpy.float16).ravel().tolist() == 6 * [float(numpy.float16(0.02 / 4.6))]
    assert len({bytes(block) for block in blocks}) == 6


@pytest.mark.parametrize(
    ("siblings", "count", "chosen"),
    [
        (["0", "1", "2", "3"], 2, [0, 2]),  # far from each other
        (["0-1", "0-1", "2-3", "2-3"], 2, [0, 2]),
        (["0,2", "1,3", "0,2", "1,3"], 2, [0, 1]),
        (["0,2", "1,3", "0,2", "1,3"], 3, [0, 1, 2]),  # more than there are cores
        (["0", "1", "2", "3"], 4, [0, 1, 2, 3]),
    ],
)
def test_threads_of_one_core_are_the_last_choice(
    siblings: list[str], count: int, chosen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(len(siblings))))
    monkeypatch.setattr(Path, "exists", lambda path: True)
    monkeypatch.setattr(Path, "read_text", lambda path: siblings[int(path.parts[-3].removeprefix("cpu"))])
    assert process.apart(count) == chosen


def test_a_worker_answers_and_ends_with_its_block() -> None:
    """The protocol of a real process, which holds no model but one module."""
    with Process("imports", sys.executable, "json", cpus=1, threads=1) as process:
        assert process.ask(prompt=16)["seconds"] >= 0
        assert process.ask(memory=True)["peak_bytes"] > 1_000_000
        pid = process.pid
    assert not Path(f"/proc/{pid}").exists()


def test_a_worker_that_dies_is_named() -> None:
    with pytest.raises(RuntimeError, match="no_such_module"):
        Process("imports", sys.executable, "no_such_module", cpus=1, threads=1)


def test_tables_of_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.jsonl"
    results.write_text(json.dumps(line("rows", "2026-01-01", glm={"decode_s": 1.0})) + "\n")
    monkeypatch.setattr(sys, "argv", ["peers", "--only", "--results", str(results)])
    assert command.main() == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert json.loads(last)["parts"][0]["rounds"] == 1


def test_no_fallback_is_measured_in_place_of_another(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["peers", "--programs", "glm without compiler"])
    with pytest.raises(SystemExit):
        command.main()
    assert "pip install onnxruntime" in capsys.readouterr().err
