"""P-Tuning: which rows of the prefix belong to which layer, that it is not rotated, and that everybody sees it."""

import pytest
import torch
from torch import Tensor

from glm_model.model.attention import GLMAttention
from glm_model.model.prefix import PrefixEncoder
from tests.rules import tiny
from tests.rules.tiny import GMASK, SOP, ids

LAYERS, HEADS, HEAD_DIM, PREFIX = 3, 2, 8, 4


@pytest.mark.parametrize("projection", [False, True])
def test_prefix_holds_keys_and_values_of_each_layer_in_turn(projection: bool) -> None:
    """A row of the embedding is [layer 0 keys, layer 0 values, layer 1 keys, ...], each [heads, head_dim]."""
    config = tiny.chatglm_config(num_layers=LAYERS, prefix_projection=projection)
    encoder = tiny.drawn(PrefixEncoder(config, PREFIX))
    flat: Tensor = encoder.embedding.weight
    if projection:
        weights = dict(encoder.trans.named_parameters())
        inner = (flat @ weights["0.weight"].T + weights["0.bias"]).tanh()
        flat = inner @ weights["2.weight"].T + weights["2.bias"]
    encoded = encoder(torch.float32, 1)
    assert encoded.shape == (2 * LAYERS, 1, HEADS, PREFIX, HEAD_DIM)
    for number in range(2 * LAYERS):
        for head in range(HEADS):
            start = (number * HEADS + head) * HEAD_DIM
            tiny.assert_near(encoded[number, 0, head], flat[:, start : start + HEAD_DIM])


def test_prefix_of_a_layer_stands_before_its_keys_and_values_unrotated() -> None:
    """A layer whose own keys and values are nothing attends to the prefix alone, whatever the positions."""
    config = tiny.chatglm_config(num_layers=LAYERS, attn_implementation="eager")
    module = tiny.drawn(GLMAttention(config, 1))
    query_alone = torch.zeros(HEADS, 3, HEAD_DIM, dtype=torch.bool)
    query_alone[:, 0] = True
    module.query_key_value.weight[~query_alone.flatten()] = 0
    module.query_key_value.bias.zero_()
    module.dense.weight.copy_(torch.eye(16))
    module.dense.bias.zero_()
    prefix = torch.randn(2 * LAYERS, 1, HEADS, PREFIX, HEAD_DIM, generator=torch.Generator().manual_seed(2))
    hidden = torch.randn(1, 1, 16, generator=torch.Generator().manual_seed(1))
    half_turn = (-torch.ones(1, 1, 1, 1, 2, 4), torch.zeros(1, 1, 1, 1, 2, 4))
    output, _ = module(hidden, half_turn, None, prefix=prefix)
    query = -(hidden[0, 0] @ module.query_key_value.weight.T).view(HEADS, 3, HEAD_DIM)[:, 0]
    for head in range(HEADS):
        scores = [float(query[head] @ key) / HEAD_DIM**0.5 for key in prefix[2, 0, head]]
        weights = torch.tensor([*scores, 0.0]).softmax(dim=-1)  # the token itself has key and value 0
        wanted = weights[:PREFIX] @ prefix[3, 0, head]
        tiny.assert_near(output[0, 0, HEAD_DIM * head : HEAD_DIM * (head + 1)], wanted)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_prefix_is_seen_by_every_token(attention: str) -> None:
    model = tiny.chatglm(pre_seq_len=PREFIX, attn_implementation=attention)
    row = ids([7, 8, GMASK, SOP, 9])

    def states() -> Tensor:
        hidden: Tensor = model.model(row, use_cache=False).last_hidden_state[0]
        return hidden

    before = states()
    assert model.model.prefix_encoder is not None
    model.model.prefix_encoder.embedding.weight.add_(0.5)
    assert ((states() - before).abs().amax(dim=-1) > 1e-4).all()


def test_prefix_is_encoded_once_and_kept_beside_the_cache() -> None:
    model = tiny.chatglm(pre_seq_len=PREFIX)
    row = ids([7, 8, GMASK, SOP, 9])
    positions = model.derive_position_ids(row)
    cached = model(row[:, :4], position_ids=positions[..., :4], use_cache=True).past_key_values
    assert cached.get_seq_length() == 4
    step = model(row[:, 4:], position_ids=positions[..., 4:], past_key_values=cached).logits
    tiny.assert_near(step[:, -1], model(row).logits[:, -1], atol=1e-4, rtol=1e-4)
