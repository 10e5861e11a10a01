"""Self-attention: how q, k, v lie in the fused weight, what is rotated, how scores are scaled, and what a mask does."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from glm_model.model.attention import GLMAttention, eager_attention_forward
from tests.rules import tiny

HEADS, HEAD_DIM, HIDDEN, LENGTH = 2, 8, 16, 4
NOT_ROTATED = (torch.ones(1, LENGTH, 1, 1, 2, 4), torch.zeros(1, LENGTH, 1, 1, 2, 4))


def attention(layer_idx: int = 0, implementation: str = "eager") -> GLMAttention:
    config = tiny.chatglm_config(num_layers=28, attn_implementation=implementation)
    return tiny.drawn(GLMAttention(config, layer_idx))


def states(seed: int = 1) -> Tensor:
    return torch.randn(1, LENGTH, HIDDEN, generator=torch.Generator().manual_seed(seed))


def by_hand(module: Any, hidden: Tensor) -> Tensor:
    """Unmasked attention without rotation, head by head and token by token, in float64."""
    fused = hidden[0].double() @ module.query_key_value.weight.double().T + module.query_key_value.bias.double()
    heads = []
    for head in range(HEADS):
        first = 3 * HEAD_DIM * head
        query, key, value = (fused[:, first + HEAD_DIM * i : first + HEAD_DIM * (i + 1)] for i in range(3))
        rows = []
        for token in range(LENGTH):
            weights = torch.tensor([math.exp(float(query[token] @ other) / math.sqrt(HEAD_DIM)) for other in key])
            rows.append((weights.double() / weights.sum()) @ value)
        heads.append(torch.stack(rows))
    return torch.cat(heads, dim=-1) @ module.dense.weight.double().T + module.dense.bias.double()


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_qkv_rows_are_interleaved_per_head(implementation: str) -> None:
    """Rows of the fused weight: q, k, v of head 0, then q, k, v of head 1."""
    module = attention(implementation=implementation)
    output, _ = module(states(), NOT_ROTATED, None)
    tiny.assert_near(output[0].double(), by_hand(module, states()))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_scores_are_divided_by_the_root_of_the_head_dimension(implementation: str) -> None:
    """Two keys whose products with the query differ by sqrt(8) * log(3): the odds are 3 to 1."""
    module = attention(implementation=implementation)
    module.query_key_value.weight.zero_()
    module.query_key_value.bias.zero_()
    query, key, value = module.query_key_value.weight.view(HEADS, 3, HEAD_DIM, HIDDEN)[0]
    query[0, 0] = 1.0  # input 0 is the query's first number, input 1 the key's, input 2 the value's
    key[0, 1] = value[0, 2] = 1.0
    module.dense.weight.copy_(torch.eye(HIDDEN))
    module.dense.bias.zero_()
    hidden = torch.zeros(1, LENGTH, HIDDEN)
    hidden[0, :, 0] = 1.0
    hidden[0, 0, 1:3] = torch.tensor([math.sqrt(HEAD_DIM) * math.log(3), 1.0])
    output, _ = module(hidden, NOT_ROTATED, None)  # 3 parts of the first token and 1 of each of the others
    tiny.assert_near(output[0, :, 0], torch.full((LENGTH,), 3 / (3 + LENGTH - 1)))


def test_query_and_key_are_rotated_value_is_not() -> None:
    """A quarter turn of both leaves scores between tokens as they are; of a value it would show."""
    quarter_turn = (torch.zeros(1, LENGTH, 1, 1, 2, 4), torch.ones(1, LENGTH, 1, 1, 2, 4))
    module = attention()
    output, _ = module(states(), quarter_turn, None)
    tiny.assert_near(output[0].double(), by_hand(module, states()))


def test_rotation_turns_query_and_key_by_the_place_of_their_token() -> None:
    """Turned by half a turn at one place, its scores with the others change their sign."""
    cos = torch.ones(1, LENGTH, 1, 1, 2, 4)
    cos[:, 0] = -1
    module = attention()
    _, turned = module(states(), (cos, torch.zeros_like(cos)), None)
    _, plain = module(states(), NOT_ROTATED, None)
    odds_turned, odds_plain = (values[0, :, 0, 1:].log().diff(dim=-1) for values in (turned, plain))
    tiny.assert_near(odds_turned, -odds_plain)


@pytest.mark.parametrize("layer_idx", [1, 27])
def test_layer_number_cancels_out_of_the_scores(layer_idx: int) -> None:
    output, probabilities = attention(layer_idx)(states(), NOT_ROTATED, None)
    expected_output, expected_probabilities = attention(0)(states(), NOT_ROTATED, None)
    tiny.assert_near(probabilities, expected_probabilities)
    tiny.assert_near(output, expected_output)


def eager(
    query: Tensor, key: Tensor, layer_idx: int = 0, mask: Tensor | None = None, scaling: float = 1.0
) -> tuple[Tensor, Tensor]:
    """One head: context and probabilities; the values are the unit vectors, so that both are alike."""
    value = torch.eye(key.shape[-2], dtype=query.dtype)[None, None]
    context, probabilities = eager_attention_forward(
        attention(layer_idx), query[None, None], key[None, None], value, mask, scaling
    )
    return context[0, :, 0], probabilities[0, 0]


def test_layer_number_divides_the_query_so_that_half_does_not_overflow() -> None:
    """A product of 100000, more than half holds, is one of 3571 in layer 28."""
    query, keys = torch.tensor([[100.0, 0.0]]).half(), torch.tensor([[1000.0, 0.0], [900.0, 0.0]]).half()
    _, probabilities = eager(query, keys, layer_idx=27)
    assert probabilities.tolist() == [[1.0, 0.0]]


def test_layer_number_multiplies_scores_in_float32_and_softmax_is_float32() -> None:
    """Half would round 3 * 341.25 to 1024 and 3 * 341 to 1023; and the softmax of the two to a step of 2**-11."""
    query, keys = torch.tensor([[3.0]]).half(), torch.tensor([[341.25], [341.0]]).half()
    _, probabilities = eager(query, keys, layer_idx=2)
    first = 1 / (1 + math.exp(-0.75))
    assert probabilities.dtype == torch.float16
    assert probabilities.tolist() == [torch.tensor([first, 1 - first]).half().tolist()]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_fully_masked_row_averages_all_values_evenly(implementation: str) -> None:
    module = attention(implementation=implementation)
    visible = torch.ones(1, 1, LENGTH, LENGTH, dtype=torch.bool).tril()
    visible[..., 0, :] = False
    added = torch.zeros(1, 1, LENGTH, LENGTH).masked_fill(~visible, torch.finfo(torch.float32).min)
    output, _ = module(states(), NOT_ROTATED, added)
    fused = states()[0] @ module.query_key_value.weight.T + module.query_key_value.bias
    value = fused.view(LENGTH, HEADS, 3, HEAD_DIM)[:, :, 2].flatten(1)
    tiny.assert_near(output[0, 0], module.dense(value.mean(dim=0)))


def test_padding_row_of_a_model_averages_evenly() -> None:
    row = [tiny.PAD, tiny.PAD, 7, tiny.GMASK, tiny.SOP]
    model = tiny.chatglm(num_layers=2, attn_implementation="eager")
    for probabilities in model(tiny.ids(row), output_attentions=True).attentions:
        tiny.assert_near(probabilities[:, :, :2], torch.full((1, 2, 2, 5), 0.2))


def test_eager_mask_true_means_visible() -> None:
    query, keys = torch.zeros(1, 1), torch.zeros(3, 1)
    _, probabilities = eager(query, keys, mask=torch.tensor([[[[True, False, True]]]]))
    assert probabilities.tolist() == [[0.5, 0.0, 0.5]]


def test_cached_keys_are_seen_by_the_next_token() -> None:
    """A prompt and then a token come to what the whole comes to."""
    row = [7, 8, tiny.GMASK, tiny.SOP, 9, 10]
    for model in (tiny.chatglm(num_layers=2), tiny.glm130b(num_layers=2)):
        whole = model(tiny.ids(row)).logits
        position_ids = model.derive_position_ids(tiny.ids(row))
        cached = model(tiny.ids(row[:5]), position_ids=position_ids[..., :5], use_cache=True).past_key_values
        step = model(tiny.ids(row[5:]), position_ids=position_ids[..., 5:], past_key_values=cached).logits
        tiny.assert_near(step[:, -1], whole[:, -1])
