"""The block: alpha of the residual stream, what the residual is, and where a norm stands."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from glm_model import GLM130BConfig
from glm_model.model.layers import GLMDecoderLayer
from tests.rules import tiny
from tests.rules.tiny import GMASK, SOP, ids


def norm(states: Tensor, module: Any) -> Tensor:
    centred = states - states.mean(dim=-1, keepdim=True)
    variance = (centred**2).mean(dim=-1, keepdim=True)
    return centred / (variance + 1e-5).sqrt() * module.weight + module.bias


def silenced(layer: GLMDecoderLayer, *parts: str) -> None:
    """Let the last linear layer of attention or MLP give zeros."""
    for part in parts:
        linear = layer.get_submodule(part)
        linear.weight.zero_()
        linear.bias.zero_()


ATTENTION, MLP = "self_attn.dense", "mlp.dense_4h_to_h"


@pytest.mark.parametrize("layers", [1, 3, 28, 40])
def test_alpha_of_chatglm_is_that_of_28_layers_whatever_it_has(layers: int) -> None:
    config = tiny.chatglm_config(num_layers=layers)
    assert config.residual_alpha == pytest.approx(math.sqrt(2 * 28), abs=1e-12)
    assert GLMDecoderLayer(config, 0).alpha == pytest.approx(7.483314773547883, abs=1e-12)


@pytest.mark.parametrize("layers", [1, 3, 70])
def test_alpha_of_glm130b_is_that_of_its_layers(layers: int) -> None:
    config = tiny.glm130b_config(num_layers=layers)
    assert GLMDecoderLayer(config, 0).alpha == pytest.approx((2.0 * layers) ** 0.5, abs=1e-12)


def test_alpha_of_glm130b_as_released() -> None:
    assert GLM130BConfig().residual_alpha == pytest.approx(11.832159566199232, abs=1e-12)


@pytest.mark.parametrize("make", [tiny.chatglm_config, tiny.glm130b_config])
def test_alpha_given_in_the_configuration_counts(make: Any) -> None:
    assert GLMDecoderLayer(make(deepnorm_alpha=1.5), 0).alpha == 1.5


@pytest.fixture
def layer() -> GLMDecoderLayer:
    return tiny.drawn(GLMDecoderLayer(tiny.chatglm_config(deepnorm_alpha=3.0, attn_implementation="eager"), 0))


@pytest.fixture
def hidden() -> Tensor:
    return 5 + 2 * torch.randn(1, 3, 16, generator=torch.Generator().manual_seed(1))


UNROTATED_AND_UNMASKED: dict[str, Any] = {
    "position_embeddings": (torch.ones(1, 3, 1, 1, 2, 4), torch.zeros(1, 3, 1, 1, 2, 4)),
    "attention_mask": None,
}


def through(layer: GLMDecoderLayer, hidden: Tensor) -> Tensor:
    output: Tensor = layer(hidden, **UNROTATED_AND_UNMASKED)
    return output


def test_residual_is_the_normalised_input_times_alpha(layer: GLMDecoderLayer, hidden: Tensor) -> None:
    silenced(layer, ATTENTION, MLP)
    first = norm(hidden, layer.input_layernorm) * 3.0
    wanted = norm(first, layer.post_attention_layernorm) * 3.0
    tiny.assert_near(through(layer, hidden), wanted)


def test_residual_of_the_mlp_is_its_own_normalised_input_times_alpha(layer: GLMDecoderLayer, hidden: Tensor) -> None:
    silenced(layer, ATTENTION)
    middle = norm(norm(hidden, layer.input_layernorm) * 3.0, layer.post_attention_layernorm)
    tiny.assert_near(through(layer, hidden), middle * 3.0 + layer.mlp(middle))


def test_residual_of_the_attention_is_added_to_what_it_says_of_the_normalised_input(
    layer: GLMDecoderLayer, hidden: Tensor
) -> None:
    silenced(layer, MLP)
    normed = norm(hidden, layer.input_layernorm)
    attended, _ = layer.self_attn(normed, **UNROTATED_AND_UNMASKED)
    wanted = norm(normed * 3.0 + attended, layer.post_attention_layernorm) * 3.0
    tiny.assert_near(through(layer, hidden), wanted)


@pytest.mark.parametrize("make", [tiny.chatglm, tiny.glm130b])
def test_no_norm_on_the_embedding_and_one_after_the_last_layer(make: Any) -> None:
    model = make(num_layers=2)
    seen: list[Tensor] = []
    model.model.layers[0].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    model.model.layers[1].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    row = ids([7, 8, GMASK, SOP])
    last = model.model(row).last_hidden_state
    assert torch.equal(seen[0], model.model.embed_tokens.weight[row])
    tiny.assert_near(last, norm(seen[1], model.model.norm))
