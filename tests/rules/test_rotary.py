"""Rotary positions: which pairs of a head are turned, by which position, how far, and in which direction."""

import cmath
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from glm_model.model.configuration import GLMConfig
from glm_model.model.rotary import GLMRotaryEmbedding, rotate
from tests.rules import tiny

HEAD_DIM = 8


def half(value: float) -> float:
    """The nearest number that half precision holds."""
    return float(torch.tensor(value, dtype=torch.float64).half())


def turned(values: Sequence[float], position: int) -> list[float]:
    """A part of a head turned by one position: numbers i and i + dim/2 are one complex number."""
    pairs = len(values) // 2
    result = [0.0] * len(values)
    for i in range(pairs):
        frequency = half(10000.0 ** (-2 * i / len(values)))
        number = complex(values[i], values[i + pairs]) * cmath.exp(1j * position * frequency)
        result[i], result[i + pairs] = number.real, number.imag
    return result


def turned_by_model(head: Tensor, positions: Sequence[int]) -> Tensor:
    """A head [8] as the model turns it, at one position (GLM-130B) or a position and a block position (ChatGLM-6B)."""
    rows = len(positions)
    config = tiny.chatglm_config() if rows == 2 else tiny.glm130b_config()
    position_ids = torch.tensor([[[position] for position in positions]] if rows == 2 else [list(positions)])
    cos, sin = GLMRotaryEmbedding(config)(position_ids, torch.float32)
    return rotate(head.view(1, 1, 1, 1, rows, -1), cos, sin).flatten()


@pytest.fixture
def head() -> Tensor:
    return torch.randn(HEAD_DIM, generator=torch.Generator().manual_seed(0))


def test_the_first_half_is_rotated_by_positions_in_the_text(head: Tensor) -> None:
    wanted = torch.tensor(turned(head[:4].tolist(), position=5))
    tiny.assert_near(turned_by_model(head, (5, 0))[:4], wanted, atol=1e-6, rtol=0)
    tiny.assert_near(turned_by_model(head, (5, 9))[:4], wanted, atol=1e-6, rtol=0)


def test_the_second_half_is_rotated_by_block_positions(head: Tensor) -> None:
    wanted = torch.tensor(turned(head[4:].tolist(), position=9))
    tiny.assert_near(turned_by_model(head, (0, 9))[4:], wanted, atol=1e-6, rtol=0)
    tiny.assert_near(turned_by_model(head, (5, 9))[4:], wanted, atol=1e-6, rtol=0)


def test_the_whole_head_of_glm130b_is_rotated_by_one_position(head: Tensor) -> None:
    wanted = torch.tensor(turned(head.tolist(), position=5))
    tiny.assert_near(turned_by_model(head, (5,)), wanted, atol=1e-6, rtol=0)


def test_position_0_is_not_rotated(head: Tensor) -> None:
    assert torch.equal(turned_by_model(head, (0, 0)), head)
    assert torch.equal(turned_by_model(head, (0,)), head)


@pytest.mark.parametrize("part", [0, 4])
def test_rotary_sign_the_first_of_a_pair_turns_towards_the_second(part: int) -> None:
    """(1, 0) at position 1 becomes (cos 1, +sin 1), not (cos 1, -sin 1)."""
    head = torch.zeros(HEAD_DIM).index_fill(0, torch.tensor(part), 1.0)
    wanted = torch.zeros(HEAD_DIM)
    wanted[part], wanted[part + 2] = math.cos(1), math.sin(1)
    tiny.assert_near(turned_by_model(head, (1, 1)), wanted, atol=1e-6, rtol=0)


def test_rotary_pairs_are_half_a_part_apart_not_interleaved(head: Tensor) -> None:
    """Each pair (i, i + dim/2) keeps its length, whatever the position."""
    new = turned_by_model(head, (3,))
    tiny.assert_near(new[:4] ** 2 + new[4:] ** 2, head[:4] ** 2 + head[4:] ** 2, atol=1e-6, rtol=0)
    assert not torch.allclose(new[0::2] ** 2 + new[1::2] ** 2, head[0::2] ** 2 + head[1::2] ** 2, atol=1e-3)


@pytest.mark.parametrize("config", [tiny.chatglm_config(hidden_size=128), tiny.glm130b_config(hidden_size=128)])
def test_rotary_frequencies_are_rounded_to_half_in_every_precision(config: GLMConfig) -> None:
    dim = 64 if config.model_type == "glm130b" else 32
    wanted = torch.tensor([half(10000.0 ** (-2 * i / dim)) for i in range(dim // 2)])
    assert not torch.equal(wanted.double(), torch.tensor([10000.0 ** (-2 * i / dim) for i in range(dim // 2)]).double())
    for cast in (torch.nn.Module.float, torch.nn.Module.half, torch.nn.Module.double, torch.nn.Module.bfloat16):
        tiny.assert_near(cast(GLMRotaryEmbedding(config)).inv_freq.float(), wanted, atol=0, rtol=0)


@pytest.mark.parametrize("position", [1000, 1999, 2047])
def test_rotary_angle_itself_is_rounded_in_half_precision(position: int) -> None:
    """Position times frequency is a number of half precision there, and so are its cosine and its sine."""
    config = tiny.chatglm_config(hidden_size=128)
    cos, sin = GLMRotaryEmbedding(config)(torch.tensor([[[position], [0]]]), torch.float16)
    frequencies = [half(10000.0 ** (-2 * i / 32)) for i in range(16)] * 2
    angles = [half(half(position) * frequency) for frequency in frequencies]
    tiny.assert_near(cos[0, 0, 0, 0, 0], torch.tensor(angles).cos().half(), atol=2**-11, rtol=0)
    tiny.assert_near(sin[0, 0, 0, 0, 0], torch.tensor(angles).sin().half(), atol=2**-11, rtol=0)


def test_rotary_angle_is_not_rounded_in_other_precisions() -> None:
    config = tiny.chatglm_config(hidden_size=128)
    angle = 2047 * half(10000.0 ** (-2 / 32))
    assert abs(half(angle) - angle) > 0.2  # what half would make of it shows
    for dtype, bound in ((torch.float32, 2e-4), (torch.bfloat16, 2**-8)):
        cos, _ = GLMRotaryEmbedding(config)(torch.tensor([[[2047], [0]]]), dtype)
        assert abs(float(cos[0, 0, 0, 0, 0, 1]) - math.cos(angle)) < bound
