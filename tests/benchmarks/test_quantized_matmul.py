"""benchmarks/quantized_matmul.py starts, with each kind of path that this machine has."""

import json

import pytest
import torch

from benchmarks import quantized_matmul
from glm_model.kernels import native

pytestmark = pytest.mark.skipif(not native.is_usable(), reason="no native kernel here")


def test_a_table_and_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    known = quantized_matmul.paths()
    assert {"native-fast", "native-exact", "reference"} <= known.keys()
    chosen = [name for name in ("native-fast", "onnxruntime") if name in known]
    options = ["--shapes", "dense", "--rows", "1", "9", "--rounds", "1", "--pool", "16", "--paths", *chosen]
    monkeypatch.setattr("sys.argv", ["quantized_matmul.py", *options])
    assert quantized_matmul.main() == 0
    title, header, *rows, line = capsys.readouterr().out.splitlines()
    assert title.startswith(f"INT4, {torch.get_num_threads()} threads")
    assert header.split()[-len(chosen) :] == chosen
    assert [row.split()[:2] for row in rows] == [["dense", "1"], ["dense", "9"]]
    few, many = json.loads(line)["results"]
    assert (few["unit"], many["unit"]) == ("GB/s", "GOP/s")
    for name in chosen:
        assert few[name] > 0
        assert few[f"{name} share"] > 0
        assert many[name] > 0


def test_a_pool_that_is_too_small(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["quantized_matmul.py", "--shapes", "dense", "lm_head", "--pool", "16"])
    with pytest.raises(SystemExit):
        quantized_matmul.main()
    assert "--pool 16: a weight of these shapes takes 254 MiB" in capsys.readouterr().err
