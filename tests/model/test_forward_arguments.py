"""What a forward pass is told: the cache under two names, and nothing that it does not know."""

import copy

import pytest
import torch
from transformers import DynamicCache

from glm_model.model.transformers_names import cache_of
from tests.golden.data import FP32, TUNED
from tests.golden.models import load


def prompt() -> torch.Tensor:
    config = load(FP32).config
    return torch.tensor([[20, 21, 22, config.gmask_token_id, config.bos_token_id]])


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
@torch.no_grad()
def test_the_cache_has_two_names(name: str) -> None:
    model = load(FP32)
    cache = DynamicCache()
    output = model(prompt(), **{name: cache})
    assert cache.get_seq_length() == 5
    assert cache_of(output) is cache


def test_one_of_them_at_a_time() -> None:
    with pytest.raises(ValueError, match="two names of one argument"):
        load(FP32)(prompt(), cache=DynamicCache(), past_key_values=DynamicCache())


@pytest.mark.parametrize("part", ["model", "decoder"])
def test_an_unknown_argument_is_an_error(part: str) -> None:
    model = load(FP32)
    called = model if part == "model" else model.model
    with pytest.raises(TypeError, match="unexpected keyword argument 'past_key_value'"):
        called(prompt(), past_key_value=None)
    called(prompt(), num_items_in_batch=torch.tensor(1))  # what a trainer passes on


@torch.no_grad()
def test_a_prefix_is_encoded_anew_when_its_weights_have_changed() -> None:
    model = copy.deepcopy(load(TUNED[1]))
    encoder = model.model.prefix_encoder
    assert encoder is not None
    first = encoder(torch.float32, 1)
    assert encoder(torch.float32, 1) is first
    assert encoder(torch.float16, 1).dtype == torch.float16
    encoder.embedding.weight.mul_(2)
    changed = encoder(torch.float32, 1)
    assert not torch.equal(changed, first)
    encoder.load_state_dict(load(TUNED[1]).model.prefix_encoder.state_dict())
    assert torch.equal(encoder(torch.float32, 1), first)


def test_a_prefix_that_is_trained_has_gradients() -> None:
    encoder = copy.deepcopy(load(TUNED[0])).model.prefix_encoder
    assert encoder is not None
    with torch.no_grad():
        encoder(torch.float32, 1)
    encoder(torch.float32, 1).sum().backward()
    assert encoder.embedding.weight.grad is not None
