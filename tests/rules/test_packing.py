"""The published quantization: order and sign of nibbles, row scales, rounding, and which layers are packed."""

import pytest
import torch

from glm_model.kernels import reference
from glm_model.kernels.packing import dequantize, pack, quantize, unpack
from glm_model.quantization.rules import is_packed


def bytes_of(*values: int) -> torch.Tensor:
    """int8 [1, values] of unsigned bytes."""
    return torch.tensor([list(values)], dtype=torch.uint8).view(torch.int8)


def integers(*values: int) -> torch.Tensor:
    return torch.tensor([list(values)], dtype=torch.int8)


def test_nibble_order_the_even_column_is_the_high_one() -> None:
    assert torch.equal(pack(integers(1, 2, 3, 4), 4), bytes_of(0x12, 0x34))
    assert unpack(bytes_of(0x12, 0x34), 4).tolist() == [[1, 2, 3, 4]]


def test_nibble_sign_is_twos_complement() -> None:
    assert torch.equal(pack(integers(-1, -7, 7, -8, -1, 1), 4), bytes_of(0xF9, 0x78, 0xF1))
    assert unpack(bytes_of(0xF9, 0x78, 0xF1), 4).tolist() == [[-1, -7, 7, -8, -1, 1]]


def test_every_byte_holds_two_nibbles_and_nothing_else() -> None:
    every = bytes_of(*range(256))
    signed = [nibble - 16 if nibble > 7 else nibble for byte in range(256) for nibble in divmod(byte, 16)]
    assert unpack(every, 4).tolist() == [signed]
    assert torch.equal(pack(unpack(every, 4), 4), every)


def test_eight_bits_are_stored_as_they_are() -> None:
    assert pack(integers(-128, 0, 127), 8).tolist() == unpack(integers(-128, 0, 127), 8).tolist() == [[-128, 0, 127]]


@pytest.mark.parametrize(("bits", "limit"), [(4, 7), (8, 127)])
def test_scale_of_a_row_is_its_largest_magnitude_by_the_largest_integer(bits: int, limit: int) -> None:
    weight = torch.tensor([[1.0, -3.5, 2.0, 0.25], [0.5, 0.0, -0.125, 0.25]])
    packed, scale = quantize(weight, bits)
    assert scale.dtype == torch.float16
    assert torch.equal(scale, torch.tensor([3.5 / limit, 0.5 / limit]).half())
    wanted = [[round(float(value) / float(s)) for value in row] for row, s in zip(weight, scale, strict=True)]
    assert unpack(packed, bits).tolist() == wanted


def test_scale_is_rounded_to_half_before_the_weight_is_divided_by_it() -> None:
    """1.001 / 7 is 0.143, in half 0.14294...; what lies between 4.5 times the one and 4.5 times the other tells."""
    exact = 1.001 / 7
    rounded = float(torch.tensor(exact).half())
    between = 4.5 * (exact + rounded) / 2
    assert rounded < exact
    packed, _ = quantize(torch.tensor([[1.001, between]]), 4)
    assert unpack(packed, 4).tolist() == [[7, 5]]


def test_rounding_of_halves_goes_to_the_even_integer() -> None:
    packed, scale = quantize(torch.tensor([[7.0, 0.5, 1.5, 2.5, -0.5, -1.5]]), 4)
    assert scale.tolist() == [1.0]
    assert unpack(packed, 4).tolist() == [[7, 0, 2, 2, 0, -2]]


def test_rounding_happens_in_the_dtype_of_the_weight() -> None:
    """100.625 by the scale 1.0009765625 is 100.527, which half holds as 100.5, whose even neighbour is 100."""
    for dtype, wanted in ((torch.float32, 101), (torch.float16, 100)):
        packed, scale = quantize(torch.tensor([[127.125, 100.625]]).to(dtype), 8)
        assert scale.tolist() == [1.0009765625]
        assert packed.tolist() == [[127, wanted]]


def test_row_of_zeros_has_scale_0_and_stays_zeros() -> None:
    packed, scale = quantize(torch.tensor([[0.0, 0.0], [7.0, -7.0]]), 4)
    assert scale.tolist() == [0.0, 1.0]
    assert unpack(packed, 4).tolist() == [[0, 0], [7, -7]]


@pytest.mark.parametrize("scale_dtype", [torch.float16, torch.float32])
def test_dequantized_is_integer_times_the_scale_of_its_row(scale_dtype: torch.dtype) -> None:
    scale = torch.tensor([0.3, 2.0]).to(scale_dtype)
    packed = torch.cat([bytes_of(0x1F, 0x70), bytes_of(0xE2, 0x08)])
    wanted = torch.tensor([[1.0, -1.0, 7.0, 0.0], [-2.0, 2.0, 0.0, -8.0]]) * scale.float()[:, None]
    assert torch.equal(dequantize(packed, scale, 4, torch.float32), wanted)


def test_dequantized_in_half_is_the_exact_product_rounded_once() -> None:
    scale = torch.tensor([0.3]).half()
    exact = torch.tensor([[float(integer) * float(scale) for integer in (-7, 5, 3, 1)]])
    assert torch.equal(dequantize(bytes_of(0x95, 0x31), scale, 4, torch.float16), exact.half())


def test_packed_product_is_that_with_the_dequantized_weight() -> None:
    """[3 * 0.5, -2 * 0.5] times (10, 1), and [-8 * 2, 7 * 2]."""
    packed, scale = bytes_of(0x3E, 0x87).view(2, 1), torch.tensor([0.5, 2.0]).half()
    product = reference.matmul(torch.tensor([[10.0, 1.0]]), packed, scale, 4, torch.tensor([100.0, 0.0]))
    assert product.tolist() == [[100 + 15 - 1, -160 + 14]]


def test_odd_columns_do_not_pack_into_nibbles() -> None:
    with pytest.raises(ValueError, match="3 columns are odd"):
        pack(integers(1, 2, 3), 4)


@pytest.mark.parametrize("stem", ["transformer.layers.0.", "model.layers.27."])
def test_packed_layers_are_the_four_linear_ones_of_each_block(stem: str) -> None:
    linears = ["attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"]
    assert all(is_packed(stem + linear, embeddings=False) for linear in linears)
    others = ["input_layernorm", "post_attention_layernorm", "attention.rotary_emb", "attention", "mlp"]
    assert not any(is_packed(stem + other, embeddings=True) for other in others)


@pytest.mark.parametrize("name", ["transformer.word_embeddings", "model.embed_tokens", "lm_head"])
def test_packed_embeddings_are_asked_for_by_themselves(name: str) -> None:
    assert is_packed(name, embeddings=True)
    assert not is_packed(name, embeddings=False)
