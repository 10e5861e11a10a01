"""The slow reference of tests/reference.py against the original implementations.

It has to agree before it may judge the model on anything else.
"""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.golden.data import ALPHAS, FP16, FP32, GLM130B, GOLDEN, TUNED, assert_close, expected
from tests.reference import (
    Shape,
    SpecialIds,
    Trace,
    Weights,
    chatglm_positions,
    context_mask,
    forward,
    glm130b_positions,
    left_pad,
    prefix_states,
    shifted_loss,
)

CHATGLM_IDS = SpecialIds(mask=500, gmask=501, sop=504)
GLM130B_IDS = SpecialIds(mask=500, gmask=501, smask=502, sop=504)


def weights_of(folder: str) -> Weights:
    """A ChatGLM set's weights; a P-tuning set brings only its prefix and stands on the float32 base."""
    own = load_file(GOLDEN / folder / "model.safetensors")
    return load_file(GOLDEN / FP32 / "model.safetensors") | own if folder in TUNED else own


def run(weights: Weights, alpha: float, values: dict[str, Tensor], case: str) -> Trace:
    shape = Shape(layers=3, heads=4, alpha=alpha)
    inputs = (values[f"{case}.{name}"] for name in ("input_ids", "position_ids", "attention_mask"))
    return forward(weights, shape, *inputs)


@pytest.mark.parametrize("case", ["a", "b", "ab"])
def test_chatglm_masks_and_positions(case: str) -> None:
    values = expected(FP32)
    ids = values[f"{case}.input_ids"][0].tolist()
    assert torch.equal(context_mask(ids, CHATGLM_IDS.sop), values[f"{case}.attention_mask"][0, 0])
    assert torch.equal(chatglm_positions(ids, CHATGLM_IDS), values[f"{case}.position_ids"][0])


@pytest.mark.parametrize("case", ["c", "ea"])
def test_left_padding(case: str) -> None:
    values = expected(FP32)
    rows = [row[(row == 3).sum() :].tolist() for row in values[f"{case}.input_ids"]]
    masks = [context_mask(row, CHATGLM_IDS.sop) for row in rows]
    positions = [chatglm_positions(row, CHATGLM_IDS) for row in rows]
    ids, mask, position_ids = left_pad(rows, masks, positions, pad=3)
    assert torch.equal(ids, values[f"{case}.input_ids"])
    assert torch.equal(mask, values[f"{case}.attention_mask"])
    assert torch.equal(position_ids, values[f"{case}.position_ids"])


@pytest.mark.parametrize("stem", ALPHAS)
@pytest.mark.parametrize("folder", [FP32, *TUNED])
@pytest.mark.parametrize("case", ["a", "b", "ab", "c"])
def test_chatglm_logits(folder: str, stem: str, case: str) -> None:
    values = expected(folder, stem)
    assert_close(run(weights_of(folder), ALPHAS[stem], values, case).logits, values[f"{case}.logits"])


@pytest.mark.parametrize("stem", ALPHAS)
@pytest.mark.parametrize("case", ["a", "b", "ab", "c"])
def test_chatglm_logits_in_half(stem: str, case: str) -> None:
    values = expected(FP16, stem)
    weights = {name: value.half() for name, value in weights_of(FP16).items()}
    assert_close(run(weights, ALPHAS[stem], values, case).logits, values[f"{case}.logits"])


def test_chatglm_inner_values() -> None:
    values = expected(FP32)
    seen = run(weights_of(FP32), ALPHAS["expected"], values, "a").values
    names = [name for name in values if name.startswith(("a.hidden_states.", "a.layer"))]
    assert len(names) == 4 + 3 + 9
    for name in names:
        value = seen[name.removeprefix("a.")]
        if "probs" not in name:
            value = value.transpose(0, 1)  # the original's activations are [S, B, ...]
        assert_close(value.reshape(values[name].shape), values[name])


def test_loss() -> None:
    values = expected(FP32)
    for name, rows in {"loss": slice(0, 2), "loss_0": slice(0, 1), "loss_1": slice(1, 2)}.items():
        loss = shifted_loss(values["loss.logits"][rows], values["loss.labels"][rows])
        assert_close(loss[None], values[f"loss.{name}"])


@pytest.mark.parametrize("folder", TUNED)
def test_prefix(folder: str) -> None:
    values = expected(folder)
    states = prefix_states(weights_of(folder), Shape(layers=3, heads=4, alpha=1.0))
    for layer in range(3):
        for offset, name in enumerate(("key", "value")):
            assert_close(states[2 * layer + offset][:, None], values[f"prefix.layer{layer}.{name}"])


@pytest.mark.parametrize("stem", ["expected", "expected_fp16"])
@pytest.mark.parametrize("case", ["g", "m", "s"])
def test_glm130b(case: str, stem: str) -> None:
    values = expected(GLM130B, stem)
    config = json.loads((GOLDEN / GLM130B / "model_config.json").read_text())
    file = GOLDEN / GLM130B / "tp1" / "49300" / "mp_rank_00_model_states.pt"
    weights = torch.load(file, weights_only=True)["module"]
    weights = {name: value.to(values["g.logits"].dtype) for name, value in weights.items()}
    tokens = values[f"{case}.tokens"][0]
    ids = tokens[tokens >= 0]
    size = len(ids)

    positions = glm130b_positions(ids.tolist(), GLM130B_IDS)
    mask = context_mask(ids.tolist(), GLM130B_IDS.sop)
    assert torch.equal(positions, values[f"{case}.position_ids"][0, :size])
    assert torch.equal(mask, values[f"{case}.attention_mask"][0, 0, :size, :size])

    layers = config["num_layers"]
    shape = Shape(layers, config["num_attention_heads"], alpha=(2 * layers) ** 0.5, glm130b=True)
    trace = forward(weights, shape, ids[None], positions[None], mask[None, None])
    assert_close(trace.logits, values[f"{case}.logits"])
    if case == "g":
        for layer in range(layers):
            name = f"layer_output.{layer}"
            assert_close(trace.values[name].transpose(0, 1), values[f"g.{name}"])
