"""Every benchmark starts: with its smallest setting, or, where that takes long, as far as its settings."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

from glm_model import DEMO_MODEL
from glm_model.kernels import dispatch

FOLDER = Path(__file__).parents[2] / "benchmarks"
SMALLEST = {
    "gpu_generate": "--model demo --device cpu --quantize int4 --contexts 8 --tokens 1 --rounds 1 --ways stream",
    "gpu_serve": "--model demo --device cpu --quantize int4 --rows 1 2 --contexts 8 --tokens 1 --rounds 1",
    "plan": "--model demo --device cpu --context 16 --tokens 1",
    "serve": "--models demo fast --folder {demo} --rows 1 2 --contexts 8 --prompts 8 --arrivals 16 --requests 2 "
    "--answer 16 --sampled-rows 1 --tokens 1 --rounds 1 --threads 1",
    "prompt_lookup": "--tokens 8 --lookup 4 --threads 1",
    # It ends with 1 if streams cost more than it says, which they do beside other tests.
    "overhead": "--help",
    # Measured in a test of its own.
    "quantized_matmul": "--help",
    # The evaluation of six models, a model of ChatGLM-6B's shape, a GPU, several processes, or other programs.
    "decode_6b": "--help",
    "precision": "--help",
    "gpu_quantized_matmul": "--help",
    "parallel_memory": "--help",
    "sat_conversion": "--help",
    "step_profile": "--help",
    "peers.__main__": "--help",
}


def test_all_are_started() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} | {"peers.__main__"} == SMALLEST.keys()


@pytest.mark.parametrize("name", SMALLEST)
def test_starts(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(dispatch, "_KERNELS", list(dispatch._KERNELS))  # one of them takes all but one away
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *(word.format(demo=DEMO_MODEL) for word in SMALLEST[name].split())])
    try:
        benchmark = importlib.import_module(f"benchmarks.{name}")
        status = benchmark.main()
    except SystemExit as end:
        status = end.code
    finally:
        torch.set_num_threads(threads)
    assert not status
    written = capsys.readouterr().out
    if SMALLEST[name] == "--help":
        assert "usage: " in written
    else:
        assert json.loads(written.splitlines()[-1])
