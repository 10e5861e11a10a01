"""One process, several places: what memory does not hold goes to the disk, and the answers stay the same."""

import gc
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import infer_auto_device_map

from glm_model import ChatGLMConfig, ChatGLMForCausalLM, load

KINDS = [None, "int4"]
PLACES = {
    "layers": {"model.embed_tokens": "cpu", "lm_head": "cpu", "model.layers.0": "cpu"},
    "embedding": {"model.embed_tokens": "disk", "lm_head": "disk", "model.layers.0": "disk"},
}
PLACES = {
    name: {
        "model.rotary_emb": "cpu",
        "model.norm": "cpu",
        **{f"model.layers.{i}": "disk" for i in range(1, 5)},
        **places,
    }
    for name, places in PLACES.items()
}


def greedy(model: Any) -> list[list[int]]:
    prompt = torch.tensor([[5, 6, 7, model.config.gmask_token_id, model.config.bos_token_id]], device=model.device)
    answer: list[list[int]] = model.generate(prompt, max_new_tokens=6, do_sample=False).tolist()
    return answer


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[str | None, list[list[int]]]:
    """How the model is packed while it loads, and what it answers when it is in one place."""
    return request.param, greedy(load(quantize=request.param, device="cpu")[0])


@pytest.mark.parametrize("places", PLACES)
def test_layers_on_the_disk(kind: Any, places: str, tmp_path: Path) -> None:
    quantize, expected = kind
    model, _ = load(quantize=quantize, device="cpu", device_map=PLACES[places], offload_folder=tmp_path)
    assert model.model.layers[2].mlp.dense_h_to_4h.weight.is_meta
    assert greedy(model) == expected
    assert model.device == torch.device("cpu")


@pytest.mark.parametrize("device_map", ["auto", "sequential"])
def test_memory_that_holds_it_all(kind: Any, device_map: str) -> None:
    quantize, expected = kind
    model, _ = load(quantize=quantize, device="cpu", device_map=device_map)
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert greedy(model) == expected


def test_too_little_memory(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    quantize, expected = kind
    model, _ = load(quantize=quantize, device="cpu", device_map="auto", max_memory={"cpu": "5MB"})
    (scratch,) = tmp_path.glob("glm-offload-*")
    assert "disk" in model.hf_device_map.values()
    assert model.hf_device_map.get("lm_head") == model.hf_device_map.get("model.embed_tokens")
    assert greedy(model) == expected
    assert scratch.is_dir()
    del model
    gc.collect()
    assert not scratch.exists()


@pytest.mark.parametrize("megabytes", [8, 11, 13, 14])
def test_a_block_is_never_torn_apart(megabytes: int) -> None:
    with torch.device("meta"):
        model = ChatGLMForCausalLM(ChatGLMConfig.preset("demo"))
    model.tie_weights()
    limits = {0: f"{megabytes}MB", "cpu": "1GB"}
    places = infer_auto_device_map(model, limits, no_split_module_classes=list(model._no_split_modules))
    assert {0, "cpu"} <= set(places.values())
    assert not [name for name in places if re.match(r"model\.layers\.\d+\.", name)]
    assert places["lm_head"] == places["model.embed_tokens"]
