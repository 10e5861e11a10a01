"""The cache with room behind its tokens gives what transformers' own does, whatever is done to it in between."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from glm_model.model import kv_cache
from glm_model.model.kv_cache import LEAST_SPARE, GrowingCache
from tests.golden.data import assert_close
from tests.golden.models import PLAIN_SETS

SET = PLAIN_SETS[0]


def states(length: int, batch: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, batch, 2, length, 4, generator=generator)
    return keys, values


def assert_same(found: Any, wanted: Any) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.equal(ours, theirs)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda cache: None,
    "crop": lambda cache: cache.crop(-2),
    "beams change order": lambda cache: cache.reorder_cache(torch.tensor([1, 1])),
    "rows are repeated": lambda cache: cache.batch_repeat_interleave(2),
    "rows are chosen": lambda cache: cache.batch_select_indices(torch.tensor([1])),
    "reset": lambda cache: cache.reset(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_it_is_a_dynamic_cache(change: Callable[[Any], Any]) -> None:
    """A prompt, tokens, the change, more tokens than there is room for at first."""
    caches = GrowingCache(), DynamicCache()
    results: list[list[Any]] = [[], []]
    for cache, seen in zip(caches, results, strict=True):
        for step, length in enumerate((5, 1, 3)):
            seen += map(Tensor.clone, cache.update(*states(length, seed=step), 0))
        change(cache)
        batch = len(cache.layers[0].keys) if cache.get_seq_length() else 2
        for step in range(LEAST_SPARE + 10):
            seen += map(Tensor.clone, cache.update(*states(1, batch, seed=10 + step), 0))
        seen.append(torch.tensor(cache.get_seq_length()))
    assert_same(*results)


@torch.no_grad()
@pytest.mark.parametrize(
    ("shared_bytes", "tensors"), [(1 << 20, 1), (2 * 2 * 2 * 2 * (5 + LEAST_SPARE) * 4 * 4, 2), (1, 3)]
)
def test_layers_begin_in_shared_tensors(shared_bytes: int, tensors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And give what those do that begin in their own, when they have outgrown them too."""
    monkeypatch.setattr(kv_cache, "SHARED_BYTES", shared_bytes)
    caches = GrowingCache(), DynamicCache()
    caches[0].expect(3)
    results: list[list[Any]] = [[], []]
    for cache, seen in zip(caches, results, strict=True):
        for step, length in enumerate((5, *(1 for _ in range(LEAST_SPARE + 10)))):
            for layer in range(3):
                seen += map(Tensor.clone, cache.update(*states(length, seed=3 * step + layer), layer))
            if step == 1:
                seen += (layer.keys.clone() for layer in cache.layers)
                places = {layer.keys.untyped_storage().data_ptr() for layer in cache.layers}
                assert len(places) == (tensors if cache is caches[0] else 3)
    assert_same(*results)


def test_a_layer_elsewhere_begins_on_its_own_device() -> None:
    cache = GrowingCache()
    cache.expect(2)
    cache.update(*states(5), 0)
    keys, values = (each.to("meta") for each in states(5))
    keys, _ = cache.update(keys, values, 1)
    assert keys.device.type == cache.layers[1].keys.device.type == "meta"
    assert cache.get_seq_length() == cache.get_seq_length(1) == 5


@torch.no_grad()
def test_tokens_stay_where_they_are() -> None:
    cache = GrowingCache()
    cache.update(*states(5), 0)
    place = cache.layers[0].keys.data_ptr()
    for step in range(LEAST_SPARE):
        keys, _ = cache.update(*states(1, seed=step), 0)
        cache.crop(-(step % 2))
    assert keys.data_ptr() == place


@pytest.mark.parametrize("first", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("then", [torch.no_grad, torch.enable_grad])
def test_it_is_overwritten_only_where_torch_allows(first: Any, then: Any) -> None:
    caches = GrowingCache(), DynamicCache()
    for cache in caches:
        with first():
            cache.update(*states(5), 0)
        for step in (1, 2):
            new = states(1, seed=step)
            with then():
                seen = cache.update(new[0].requires_grad_(), new[1], 0)
    assert_same(*(cache.layers[0].keys for cache in caches))
    assert seen[0].requires_grad == (then is torch.enable_grad)


def test_gradients_go_through_it() -> None:
    gradients = []
    for cache in (GrowingCache(), DynamicCache()):
        prompt, token = states(5)[0].requires_grad_(), states(1, seed=1)[0].requires_grad_()
        keys, _ = cache.update(prompt, prompt, 0)
        total = keys.square().sum()
        keys, _ = cache.update(token, token, 0)
        (total + keys.pow(3).sum()).backward()
        gradients.append((prompt.grad, token.grad))
    assert_same(*gradients)


def test_a_copy_goes_its_own_way() -> None:
    cache = GrowingCache()
    cache.update(*states(5), 0)
    other = copy.deepcopy(cache)
    before = cache.update(*states(1, seed=1), 0)[0].clone()
    other.update(*states(1, seed=2), 0)
    assert torch.equal(cache.layers[0].keys, before)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True, "num_return_sequences": 3}], ids=str)
def test_generate_is_the_same(options: dict[str, Any]) -> None:
    model, ids = SET.model(), SET.values["a.input_ids"]
    settings = {"max_new_tokens": 20, "do_sample": False} | options
    made = []
    for cache in (None, DynamicCache()):
        torch.manual_seed(0)
        out = model.generate(ids, past_key_values=cache, return_dict_in_generate=True, **settings)
        made.append(out.sequences)
        assert isinstance(out.past_key_values, GrowingCache) == (cache is None)
        places = {layer.keys.untyped_storage().data_ptr() for layer in out.past_key_values.layers}
        assert (len(places) == 1) == (cache is None and "num_beams" not in options)
    assert torch.equal(*made)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@torch.no_grad()
def test_a_cache_in_half(dtype: torch.dtype) -> None:
    """The prompt's logits are those of a full cache, a later token's are near."""
    model, ids = SET.model(), SET.values["a.input_ids"]
    positions = model.derive_position_ids(ids, length=ids.shape[1] + 1)
    logits = []
    for cache in (GrowingCache(), GrowingCache(dtype)):
        prompt = model(ids, past_key_values=cache, use_cache=True)
        token = model(ids[:, :1], position_ids=positions[..., -1:], past_key_values=cache)
        logits.append((prompt.logits, token.logits))
    assert cache.layers[0].keys.dtype == dtype
    assert torch.equal(logits[0][0], logits[1][0])
    assert_close(logits[1][1], logits[0][1], 0.02)
    assert not torch.equal(logits[1][1], logits[0][1])


def test_generate_takes_the_models_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = SET.model(), SET.values["a.input_ids"]
    monkeypatch.setattr(model.runtime, "cache_dtype", torch.bfloat16)
    out = model.generate(ids, max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
    assert {layer.keys.dtype for layer in out.past_key_values.layers} == {torch.bfloat16}
