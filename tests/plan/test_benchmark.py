"""The logic of benchmarks/plan.py, which is meant for a GPU, on a CPU."""

import json
from typing import Any

import pytest
import torch

from benchmarks import plan as benchmark
from glm_model.kernels import dispatch
from glm_model.plan.estimate import Workload
from tests.plan.shapes import ARCHITECTURES, small


@pytest.fixture(autouse=True)
def _kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_KERNELS", list(dispatch._KERNELS))


@pytest.mark.parametrize("bits", [0, 8, 4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_measured_beside_predicted(architecture: str, bits: int, capsys: Any) -> None:
    workload = Workload(small(architecture, quantization_bit=bits), torch.float32, context=200, batch=1)
    found = benchmark.compare(workload, torch.device("cpu"), tokens=2)
    predicted, measured = found["predicted"], found["measured"]
    assert measured["weights"] == predicted["weights"]
    assert measured["cache"] == predicted["cache"]
    assert measured["peak"] == pytest.approx(predicted["peak"], rel=0.03)
    assert measured["ms"] > 0
    assert predicted["ms"] > 0
    benchmark.report(found, {"model": architecture, "quantize": "int4", "context": 200, "batch": 1}, "a machine")
    *table, line = capsys.readouterr().out.splitlines()
    assert json.loads(line)["predicted"] == predicted
    assert any(row.startswith("weights (GB)") and row.endswith("1.000") for row in table)


@torch.no_grad()
def test_random_weights_give_a_model_that_can_be_run() -> None:
    """Finite activations and tied ends, as in the model that the shape is of."""
    workload = Workload(small("glm130b", quantization_bit=4), torch.float32, context=20)
    model = benchmark.random_model(workload, torch.device("cpu"))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert bool(model.model.layers[0].mlp.dense_h_to_4h.weight.any())
    logits = model(benchmark.prompt(workload, torch.device("cpu"))).logits
    assert bool(logits.isfinite().all())
    assert float(logits.std()) > 0.01


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["plan.py"])
    with pytest.raises(SystemExit):
        benchmark.main()
    assert "there is no GPU; --device cpu runs the same steps" in capsys.readouterr().err
