"""What a forward pass is told: the cache under two names, and nothing that it does not know."""

import copy
from typing import Any

import pytest
import torch
from transformers import DataCollatorWithFlattening, DynamicCache

from glm_model import UnsupportedError
from glm_model.model.transformers_names import cache_of
from tests.golden.data import FP32, TUNED
from tests.golden.models import load
from tests.golden.test_glm130b import load as load_glm130b


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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"cu_seq_lens_q": torch.tensor([0, 5])}, "cu_seq_lens_q: several samples in one row"),
        ({"max_length_k": 5}, "max_length_k: several samples in one row"),
        ({"seq_idx": torch.zeros(1, 5)}, "seq_idx: several samples in one row"),
        ({"is_causal": True}, "is_causal: the context is bidirectional"),
        ({"output_router_logits": True}, "output_router_logits"),
    ],
)
def test_arguments_of_transformers_that_would_vanish(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        load(FP32)(prompt(), **arguments)
    with torch.no_grad():
        load(FP32)(prompt(), **dict.fromkeys(arguments))


@pytest.mark.parametrize("how", [{}, {"return_flash_attn_kwargs": True, "return_position_ids": False}])
@pytest.mark.parametrize("architecture", ["ChatGLM-6B", "GLM-130B"])
def test_samples_that_are_flattened_into_a_row(architecture: str, how: dict[str, Any]) -> None:
    """GLM-130B has positions of the shape that the collator makes."""
    model = load(FP32) if architecture == "ChatGLM-6B" else load_glm130b()
    ids = [20, 21, 22, model.config.gmask_token_id, model.config.bos_token_id, 23]
    batch = DataCollatorWithFlattening(return_tensors="pt", **how)([{"input_ids": ids}, {"input_ids": ids}])
    with pytest.raises(UnsupportedError, match="DataCollatorWithFlattening"):
        model(**batch)


def test_one_sample_in_a_row_of_positions_is_taken() -> None:
    """A blank at the start has position 0, and so has its answer; padding too."""
    model = load_glm130b()
    mask, sop, pad = model.config.mask_token_id, model.config.bos_token_id, model.config.pad_token_id
    ids = torch.tensor([[pad, pad, mask, 20, sop, 21, 22]])
    positions = torch.tensor([[0, 0, 0, 1, 0, 0, 0]])
    with torch.no_grad():
        found, wanted = model(ids, position_ids=positions).logits, model(ids).logits
    assert torch.equal(found, wanted)


def test_keys_in_front_of_a_prompt() -> None:
    """As PEFT's PrefixTuning makes them."""
    model = load(FP32)
    cache = DynamicCache()
    heads, width = model.config.num_attention_heads, model.config.hidden_size // model.config.num_attention_heads
    for layer in range(model.config.num_layers):
        cache.update(*torch.zeros(2, 1, heads, 4, width), layer)
    with pytest.raises(UnsupportedError, match=r"PrefixTuning.*pre_seq_len"):
        model(prompt(), past_key_values=cache)
    with pytest.raises(ValueError, match=r"inputs_embeds.*PromptTuning.*pre_seq_len"):
        model(inputs_embeds=model.get_input_embeddings()(prompt()))


def test_a_prompt_for_a_causal_model_is_told_of_our_evaluation() -> None:
    """What lm-eval's `hf` model passes."""
    with pytest.raises(ValueError, match=r"holds no <sop>.*lm-eval.*glm_model\.evaluation"):
        load(FP32)(torch.tensor([[20, 21, 22]]))


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
