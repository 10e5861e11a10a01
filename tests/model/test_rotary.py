"""Rotary angles: the original's rounding, and the better way by its name."""

import math

import pytest
import torch

from glm_model import ChatGLMConfig
from glm_model.model.rotary import GLMRotaryEmbedding

POSITIONS = torch.arange(2048).expand(1, 2, -1)


def rotary(rotary_dtype: str = "model") -> GLMRotaryEmbedding:
    config = ChatGLMConfig(hidden_size=256, num_attention_heads=2, num_layers=1, rotary_dtype=rotary_dtype)
    return GLMRotaryEmbedding(config)


def true_cosines() -> torch.Tensor:
    """float64 [2048, 32] from frequencies rounded to half, the rule of every precision."""
    frequencies = torch.tensor([10000 ** (-2 * i / 64) for i in range(32)], dtype=torch.float64).half().double()
    return (torch.arange(2048, dtype=torch.float64)[:, None] * frequencies).cos()


def worst_error(rotary_dtype: str, dtype: torch.dtype) -> float:
    cosines, _ = rotary(rotary_dtype)(POSITIONS, dtype)
    assert cosines.dtype == dtype
    return (cosines[0, :, 0, 0, 1, :32].double() - true_cosines()).abs().max().item()


def test_in_half_the_original_rounds_the_angle_itself() -> None:
    assert 0.1 < worst_error("model", torch.float16) <= 2 * math.sin(0.25) + 2**-11  # off by up to 0.5 rad


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-8), (torch.float32, 2e-4)])
def test_float32_angles_are_rounded_once(dtype: torch.dtype, bound: float) -> None:
    assert worst_error("float32", dtype) < bound + 2e-4  # float32 angles near 2047 are exact to 1e-4


def test_outside_half_both_are_the_same() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert worst_error("model", dtype) == worst_error("float32", dtype)


def test_casting_a_module_never_rounds_its_frequencies() -> None:
    module = rotary()
    before = module.inv_freq.clone()
    for cast in (module.bfloat16, module.half, module.double, module.float):
        cast()
        assert module.inv_freq.dtype == torch.float32
        assert torch.equal(module.inv_freq, before)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(Exception, match="rotary_dtype"):
        ChatGLMConfig(rotary_dtype="float64")
