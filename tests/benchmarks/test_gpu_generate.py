"""The logic of benchmarks/gpu_generate.py on a CPU."""

import json

import pytest

from benchmarks import gpu_generate


def test_a_table_and_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--model demo --device cpu --quantize none int4 --contexts 8 16 --tokens 8 --rounds 2"
    monkeypatch.setattr("sys.argv", ["gpu_generate.py", *options.split()])
    assert gpu_generate.main() == 0
    title, header, *rows, line = capsys.readouterr().out.splitlines()
    assert title.startswith("demo, batch 1: CPU")
    assert len(rows) == 4
    assert {len(row) for row in (header, *rows)} == {len(header)}
    results = json.loads(line)["results"]
    assert [(result["weights"], result["context"]) for result in results] == [
        *(("none", 8), ("none", 16), ("int4", 8), ("int4", 16))
    ]
    for result in results:
        assert {f"{way}_ms" for way in gpu_generate.WAYS} < set(result)
        assert result["prompt_ms"] > 0
        assert result["limit_ms"] > 0
