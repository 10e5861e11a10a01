"""The published rule on drawn weights, against exact arithmetic; layouts by hand; what cannot be packed."""

import pytest
import torch
from torch import Tensor

from glm_model.kernels import packing
from glm_model.kernels.packing import dequantize, pack, packed_columns, quantize, unpack
from tests.quantization import rounding

FLOATS = [torch.float16, torch.bfloat16, torch.float32]


def drawn_weight(seed: int, dtype: torch.dtype) -> Tensor:
    """A few rows of even width: ordinary, tiny (down to zero scales), large, with outliers, of zeros, of ties."""
    chance = torch.Generator().manual_seed(seed)
    columns = 2 * int(torch.randint(1, 24, (), generator=chance))
    rows = torch.randn(9, columns, generator=chance)
    rows *= torch.tensor([1, 0.02, 1e-4, 1e-6, 1e-7, 300, 1, 1, 1])[:, None]
    rows[6, 0] = 60
    rows[7] = 0
    rows[8] = torch.randint(-14, 15, (columns,), generator=chance) / 2
    return rows.to(dtype)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("seed", range(6))
def test_drawn_weights(seed: int, dtype: torch.dtype, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = drawn_weight(seed, dtype)
    monkeypatch.setattr(packing, "_BLOCK", 2 * weight.shape[1] + 1)  # rows come in blocks of two
    packed, scale = quantize(weight, bits)
    wanted_packed, wanted_scale = rounding.quantized(weight, bits)
    assert torch.equal(scale, wanted_scale)
    assert torch.equal(packed, wanted_packed)
    assert bool((scale == 0).any())
    assert rounding.integers_of(packed, bits) == unpack(packed, bits).tolist()
    assert torch.equal(pack(unpack(packed, bits), bits), packed)
    assert torch.equal(dequantize(packed, scale, bits, torch.float64), rounding.dequantized(packed, scale, bits))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("scale_dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dequantized_values_are_rounded_once(dtype: torch.dtype, scale_dtype: torch.dtype, bits: int) -> None:
    packed = torch.randint(-128, 128, (5, 6), dtype=torch.int8, generator=torch.Generator().manual_seed(bits))
    scale = (torch.rand(5, generator=torch.Generator().manual_seed(1)) / 50).to(scale_dtype)
    exact = rounding.dequantized(packed, scale, bits)
    weight = dequantize(packed, scale, bits, dtype)
    assert weight.dtype == dtype
    if scale_dtype == torch.float16 or dtype != torch.float32:
        assert torch.equal(weight, exact.to(dtype))
    else:  # 24 digits times 8 do not fit in float32
        assert torch.allclose(weight.double(), exact, rtol=2**-24, atol=0)


def test_division_in_half_decides() -> None:
    """The same values in float32 give other integers: there the quotient is not rounded to half first."""
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)).half()
    half, _ = quantize(weight, 8)
    single, _ = quantize(weight.float(), 8)
    assert 0 < int((half != single).sum()) < 0.03 * half.numel()


def test_even_columns_are_high_nibbles() -> None:
    integers = torch.tensor([[1, 2, -1, 7, -8, -7, 0, -1]], dtype=torch.int8)
    packed = pack(integers, 4)
    assert [byte % 256 for byte in packed[0].tolist()] == [0x12, 0xF7, 0x89, 0x0F]
    assert torch.equal(unpack(packed, 4), integers)


def test_every_byte_is_two_integers() -> None:
    packed = torch.arange(-128, 128).to(torch.int8)
    assert unpack(packed, 4).tolist() == rounding.integers_of(packed[None], 4)[0]
    assert torch.equal(pack(unpack(packed, 4), 4), packed)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_row_without_a_scale_is_told_by_its_scale(value: float, bits: int) -> None:
    weight = torch.ones(3, 4)
    weight[1, 2] = value
    packed, scale = quantize(weight, bits)
    assert scale.isfinite().tolist() == [True, False, True]
    assert not packed[1].any()


def test_too_large_for_a_scale_in_half() -> None:
    assert quantize(torch.full((1, 2), 65504.0 * 7), 4)[1].tolist() == [65504.0]
    assert quantize(torch.full((1, 2), 65520.0 * 7), 4)[1].isinf().all()


@pytest.mark.parametrize("weight", [torch.ones(2, 2, dtype=torch.int8), torch.ones(4), torch.ones(2, 2, 2)], ids=str)
def test_only_float_matrices(weight: Tensor) -> None:
    with pytest.raises(ValueError, match="only a floating matrix"):
        quantize(weight, 8)


@pytest.mark.parametrize("bits", [0, 1, 2, 3, 16])
def test_other_numbers_of_bits(bits: int) -> None:
    with pytest.raises(ValueError, match=f"bits must be 4 or 8, not {bits}"):
        quantize(torch.ones(2, 2), bits)


def test_odd_widths() -> None:
    with pytest.raises(ValueError, match="7 columns are odd"):
        quantize(torch.ones(2, 7), 4)
    with pytest.raises(ValueError, match="7 columns are odd"):
        pack(torch.ones(2, 7, dtype=torch.int8), 4)
    assert packed_columns(7, 8) == 7
    packed, scale = quantize(torch.eye(7), 8)
    assert torch.equal(dequantize(packed, scale, 8, torch.float32), 127 * scale[0].float() * torch.eye(7))


def test_gradients_are_left_alone() -> None:
    weight = torch.nn.Parameter(torch.ones(2, 2))
    assert not any(part.requires_grad for part in quantize(weight, 8))
