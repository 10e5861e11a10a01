"""LayerNorm: mean and variance, epsilon, bias, and float32 weights over half activations."""

from typing import Any

import pytest
import torch

from glm_model.model.layers import GLMDecoderLayer
from glm_model.model.norm import GLMLayerNorm
from tests.rules import tiny


def test_layernorm_takes_off_the_mean_and_divides_by_the_deviation() -> None:
    norm = GLMLayerNorm(4, eps=1e-5).requires_grad_(False)
    norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    norm.bias.copy_(torch.tensor([0.0, 10.0, 0.0, 0.0]))
    # Mean 4, deviations -3, -1, 1, 3: variance 5.
    wanted = torch.tensor([-3.0, -1.0, 1.0, 3.0]) / 5.00001**0.5 * norm.weight + norm.bias
    torch.testing.assert_close(norm(torch.tensor([1.0, 3.0, 5.0, 7.0])), wanted)


@pytest.mark.parametrize("make", [tiny.chatglm, tiny.glm130b])
def test_layernorm_epsilon_is_1e_minus_5_everywhere(make: Any) -> None:
    """Where the variance is 1e-5 as well, half of the whole is epsilon."""
    model = make()
    states = torch.tensor([1.0, -1.0] * 8) * 1e-5**0.5
    layer = model.model.layers[0]
    for norm in (layer.input_layernorm, layer.post_attention_layernorm, model.model.norm):
        norm.weight.fill_(1.0)
        norm.bias.zero_()
        torch.testing.assert_close(norm(states), torch.tensor([1.0, -1.0] * 8) * 0.5**0.5, atol=1e-5, rtol=0)


def test_layernorm_epsilon_of_the_configuration_counts() -> None:
    layer = GLMDecoderLayer(tiny.chatglm_config(layernorm_epsilon=0.5), 0)
    assert layer.input_layernorm.eps == layer.post_attention_layernorm.eps == 0.5


def test_layernorm_of_half_activations_is_computed_with_float32_weights() -> None:
    norm = GLMLayerNorm(2, eps=1e-5).requires_grad_(False)
    norm.weight.copy_(torch.tensor([1 + 2**-12, 1.0]))  # half would round it to 1
    norm.bias.copy_(torch.tensor([1.0, 0.0]))
    output = norm(torch.tensor([4096.0, -4096.0]).half())  # (1, -1), whatever the scale
    assert output.dtype == torch.float16
    assert norm.weight.dtype == torch.float32
    assert output.tolist() == [2.0, -1.0]
    norm.bias.copy_(torch.tensor([-1.0, 0.0]))
    assert float(norm(torch.tensor([4096.0, -4096.0]).half())[0]) == pytest.approx(2**-12, rel=1e-2)
