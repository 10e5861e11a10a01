"""The MLP: ChatGLM-6B's GELU in its tanh form, GLM-130B's GeGLU with the exact one, and their rounding in half."""

import math
from typing import Any

import torch
from torch import Tensor

from glm_model.model.layers import GLMMLP
from tests.rules import tiny


def gelu_tanh(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(0.7978845608028654 * x * (1 + 0.044715 * x * x)))


def gelu_exact(x: float) -> float:
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


def each(function: Any, values: Tensor) -> Tensor:
    return torch.tensor([function(float(value)) for value in values.flatten()], dtype=torch.float64).view(values.shape)


def linear(module: Any, states: Tensor) -> Tensor:
    product: Tensor = states.double() @ module.weight.double().T + module.bias.double()
    return product


def states() -> Tensor:
    return torch.randn(5, 16, generator=torch.Generator().manual_seed(1))


def test_gelu_of_chatglm_is_the_tanh_approximation_without_a_gate() -> None:
    mlp = tiny.drawn(GLMMLP(tiny.chatglm_config()))
    assert mlp.dense_h_to_4h.weight.shape == (12, 16)
    wanted = linear(mlp.dense_4h_to_h, each(gelu_tanh, linear(mlp.dense_h_to_4h, states())))
    torch.testing.assert_close(mlp(states()).double(), wanted, atol=2e-5, rtol=0)
    exact = linear(mlp.dense_4h_to_h, each(gelu_exact, linear(mlp.dense_h_to_4h, states())))
    assert (exact - wanted).abs().max() > 2e-4  # the other one shows


def test_geglu_of_glm130b_gates_the_first_half_with_the_exact_gelu_of_the_second() -> None:
    mlp = tiny.drawn(GLMMLP(tiny.glm130b_config()))
    assert mlp.dense_h_to_4h.weight.shape == (24, 16)
    inner = linear(mlp.dense_h_to_4h, states())
    wanted = linear(mlp.dense_4h_to_h, inner[:, :12] * each(gelu_exact, inner[:, 12:]))
    torch.testing.assert_close(mlp(states()).double(), wanted, atol=2e-5, rtol=0)
    approximate = linear(mlp.dense_4h_to_h, inner[:, :12] * each(gelu_tanh, inner[:, 12:]))
    assert (approximate - wanted).abs().max() > 2e-4


def test_gelu_in_half_rounds_after_every_operation() -> None:
    mlp = tiny.drawn(GLMMLP(tiny.chatglm_config(inner_hidden_size=16))).half()
    for dense in (mlp.dense_h_to_4h, mlp.dense_4h_to_h):
        dense.weight.copy_(torch.eye(16))
        dense.bias.zero_()
    positive = torch.arange(1024, 4096).float() / 1024  # more values than half has there
    x = torch.cat([positive, -positive]).half()

    def rounded(value: Tensor) -> Tensor:
        return value.half().double()

    step = rounded(rounded(0.044715 * x.double()) * x.double())
    step = rounded(rounded(0.7978845608028654 * x.double()) * rounded(1 + step))
    wanted = rounded(rounded(0.5 * x.double()) * rounded(1 + rounded(step.tanh())))
    assert (wanted != each(gelu_tanh, x).half().double()).sum() > 100  # rounding once is something else
    torch.testing.assert_close(mlp(x.view(-1, 16)).flatten().double(), wanted, atol=0, rtol=0)


def test_row_parallel_bias_of_glm130b_is_added_after_the_product_is_rounded_to_half() -> None:
    """2049 rounds to 2048 in half, and 2048 + 1 does too; rounded once, 2049 + 1 would be 2050."""
    for config, wanted in ((tiny.glm130b_config(), 2048.0), (tiny.chatglm_config(), 2050.0)):
        dense = GLMMLP(config).dense_4h_to_h.requires_grad_(False).half()
        dense.weight.zero_()
        dense.weight[0, :2] = torch.tensor([2048.0, 1.0])
        dense.bias.zero_()
        dense.bias[0] = 1.0
        assert float(dense(torch.ones(1, 12).half())[0, 0]) == wanted
