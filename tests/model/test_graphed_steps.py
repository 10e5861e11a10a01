"""Steps of fixed shape, as a GPU records them; here they are run one by one. tests/gpu records them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from transformers import CompileConfig, DynamicCache

from glm_model.generation import cuda_graphs as graphed_steps
from glm_model.generation.cuda_graphs import GraphedSteps, can_be_graphed
from glm_model.generation.transformers_hooks import generate_steps
from tests.golden import test_glm130b
from tests.golden.data import FP32, TUNED, assert_close
from tests.golden.models import load

PROMPT, LENGTH = 12, 40
MODELS: dict[str, Callable[[], Any]] = {
    "ChatGLM": lambda: load(FP32),
    "prefix": lambda: load(TUNED[0]),
    "eager": lambda: load(FP32, attn_implementation="eager"),
    "GLM-130B": test_glm130b.load,
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    return MODELS[request.param]()


@pytest.fixture
def ids(model: Any) -> Tensor:
    words = torch.randint(10, 60, (1, PROMPT - 2), generator=torch.Generator().manual_seed(0))
    return torch.cat([words, torch.tensor([[model.config.gmask_token_id, model.config.bos_token_id]])], dim=1)


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run what would be captured; the capacity grows by 5 tokens, so that a capture is due several times."""
    monkeypatch.setattr(graphed_steps, "CAPACITY_STEP", 5)
    monkeypatch.setattr(graphed_steps, "recorded", lambda run: run)
    monkeypatch.setattr(graphed_steps, "can_be_graphed", lambda model, cache: True)


def written(model: Any, ids: Tensor, **options: Any) -> list[int]:
    settings = {"do_sample": False, "max_length": LENGTH, "eos_token_id": None} | options
    *_, (all_ids, finished) = generate_steps(model, ids, **settings)
    assert finished
    return all_ids[0].tolist()


def test_the_tokens_are_the_same(model: Any, ids: Tensor, request: pytest.FixtureRequest) -> None:
    wanted = written(model, ids)
    request.getfixturevalue("as_on_a_gpu")
    assert written(model, ids) == wanted


@pytest.mark.usefixtures("as_on_a_gpu")
@torch.inference_mode()
def test_logits_and_capacities(model: Any, ids: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms: list[int] = []
    cache, plain = DynamicCache(), DynamicCache()

    def recorded(run: Any) -> Any:
        rooms.append(cache.layers[0].keys.shape[2])
        return run

    monkeypatch.setattr(graphed_steps, "recorded", recorded)
    for one in (cache, plain):
        model(ids, past_key_values=one, use_cache=True)
    steps = GraphedSteps(model, cache, LENGTH)
    positions = model.derive_position_ids(ids, length=LENGTH)
    for place in range(PROMPT, LENGTH):
        token, position = torch.tensor([[place + 10]]), positions[..., place : place + 1]
        wanted = model(token, position_ids=position, past_key_values=plain, use_cache=True).logits
        assert_close(steps(token, position), wanted)
    assert rooms == [24, 32, 40]  # of 12, 24 and 32 tokens and 5 more, in eights


@pytest.mark.usefixtures("as_on_a_gpu")
def test_where_nothing_can_be_recorded(
    model: Any, ids: Tensor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def recorded(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    wanted = written(model, ids)
    monkeypatch.setattr(graphed_steps, "recorded", recorded)
    assert written(model, ids) == wanted
    assert "without CUDA graphs: operation not permitted when stream is capturing" in caplog.text


@pytest.mark.usefixtures("as_on_a_gpu")
def test_what_is_not_recorded(model: Any, ids: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guesses are several tokens in a step, and a cache of the caller's must be one afterwards."""

    def refused(*arguments: Any) -> None:
        pytest.fail("recorded")

    monkeypatch.setattr(graphed_steps, "GraphedSteps", refused)
    written(model, ids, prompt_lookup_num_tokens=3)
    written(model, ids, past_key_values=DynamicCache())


def test_a_cpu_records_nothing(model: Any) -> None:
    assert model.runtime.cuda_graphs
    assert not can_be_graphed(model, DynamicCache())


def test_a_compiled_step_of_a_static_cache_is_compiled_once(model: Any, ids: Tensor) -> None:
    if model.model.prefix is not None:
        pytest.skip("whether the prefix is in a static cache is known when the step runs")
    torch.compiler.reset()
    compiler = CompileConfig(fullgraph=True, backend="eager", mode=None)
    compiler._compile_all_devices = True  # what transformers does on a GPU by itself
    options = {"do_sample": False, "max_length": LENGTH, "eos_token_id": None}
    counters.clear()
    with torch._dynamo.config.patch(error_on_recompile=True):
        static = model.generate(ids, cache_implementation="static", compile_config=compiler, **options)
    assert counters["stats"]["unique_graphs"] == 1
    assert static[0].tolist() == written(model, ids)
