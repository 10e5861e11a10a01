"""Sequences of different lengths, each with a cache of its own, in one native step: each as if it were alone."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from glm_model.kernels import native
from glm_model.kernels.dispatch import Precision
from glm_model.model import native_step
from glm_model.model.kv_cache import GrowingCache
from tests.golden.data import assert_close
from tests.quantization.test_native_decoder import MODELS, SPECIAL, logits, made

if not native.is_usable():
    pytest.skip("no native kernel here", allow_module_level=True)

LENGTHS = (3, 12, 5, 24, 4)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def filled(model: Any, length: int, dtype: torch.dtype | None = None, copies: int = 1) -> GrowingCache:
    """A cache with a prompt of so many tokens; of several sequences, each with other tokens."""
    context = torch.randint(10, 40, (copies, length - 2), generator=torch.Generator().manual_seed(length))
    ends = torch.tensor([[SPECIAL["gmask_token_id"], SPECIAL["bos_token_id"]]]).expand(copies, 2)
    cache = GrowingCache(dtype)
    model(torch.cat([context, ends], dim=1), past_key_values=cache, use_cache=True)
    assert cache.get_seq_length() == length
    return cache


def embedded(model: Any, caches: Sequence[GrowingCache], seed: int = 0) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """A drawn token for each cache, and its rotary positions: each row has others."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(len(caches), 1, model.config.hidden_size, generator=generator)
    positions = torch.tensor([[cache.get_seq_length(), 1 + row] for row, cache in enumerate(caches)])[..., None]
    if not model.config.position_encoding_2d:
        positions = positions[:, 0]
    return states, model.model.rotary_emb(positions, states.dtype)


def part(rows: slice, states: Tensor, positions: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Some rows of what `embedded` returns."""
    return states[rows], (positions[0][rows], positions[1][rows])


def run_rows_step(model: Any, inputs: tuple[Tensor, tuple[Tensor, Tensor]], caches: Sequence[object]) -> Tensor | None:
    return native_step.rows_step(model.model.layers, model.config, *inputs, caches)


def contents(cache: GrowingCache) -> list[Tensor]:
    """Keys and values of every layer."""
    return [stored for layer in cache.layers for stored in (layer.keys, layer.values)]


def one_by_one(model: Any, inputs: tuple[Tensor, tuple[Tensor, Tensor]], caches: Sequence[GrowingCache]) -> Tensor:
    """The same in steps of one row."""
    outputs = []
    for row, cache in enumerate(caches):
        states, positions = part(slice(row, row + 1), *inputs)
        out = native_step.layers_step(model.model.layers, model.config, states, positions, None, cache)
        assert out is not None
        outputs.append(out)
    return torch.cat(outputs)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", MODELS)
def test_rows_that_join_and_leave_are_as_if_alone(kind: str, bits: int) -> None:
    model = made(kind, bits)
    caches = [filled(model, length) for length in LENGTHS]
    alone = copy.deepcopy(caches)
    before = [[stored.clone() for stored in contents(cache)] for cache in caches]
    taken = [0] * len(caches)
    for step, rows in enumerate([(0, 1, 2, 3), (0, 2, 3, 4), (4, 3, 2, 1, 0), (1,), (1, 0, 3, 4)]):
        inputs = embedded(model, [caches[row] for row in rows], step)
        found = run_rows_step(model, inputs, [caches[row] for row in rows])
        assert found is not None
        wanted = one_by_one(model, inputs, [alone[row] for row in rows])
        for row, found_row, wanted_row in zip(rows, found, wanted, strict=True):
            assert_close(found_row, wanted_row, 1e-6)
            taken[row] += 1
    for cache, other, old, length, steps in zip(caches, alone, before, LENGTHS, taken, strict=True):
        assert cache.get_seq_length() == length + steps
        for stored, wanted, prompt in zip(contents(cache), contents(other), old, strict=True):
            assert torch.equal(stored[:, :, :length], prompt)
            assert_close(stored, wanted, 1e-6)


@pytest.mark.parametrize("precision", ["exact", "fast"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", MODELS)
def test_caches_of_their_own_are_bit_for_bit_a_shared_one(kind: str, bits: int, precision: Precision) -> None:
    model = made(kind, bits, precision)
    shared = filled(model, 9, copies=5)
    caches = [copy.deepcopy(shared) for _ in range(5)]
    for row, cache in enumerate(caches):
        cache.batch_select_indices(torch.tensor([row]))
    for step in range(3):
        inputs = embedded(model, caches, step)
        wanted = native_step.layers_step(model.model.layers, model.config, *inputs, None, shared)
        found = run_rows_step(model, inputs, caches)
        assert found is not None
        assert wanted is not None
        assert torch.equal(found, wanted)
    for all_keys, *own in zip(contents(shared), *map(contents, caches), strict=True):
        assert torch.equal(torch.cat(own), all_keys)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", MODELS)
def test_company_changes_no_bit(kind: str, bits: int) -> None:
    """Neither who else is in a step nor how long the others are."""
    model = made(kind, bits)
    caches = [filled(model, length) for length in LENGTHS]
    inputs = embedded(model, caches)
    others = copy.deepcopy([caches[row] for row in (1, 3)])
    found = run_rows_step(model, inputs, caches)
    of_two = [torch.cat([both[1:2], both[3:4]]) for both in (inputs[0], *inputs[1])]
    again = run_rows_step(model, (of_two[0], (of_two[1], of_two[2])), others)
    assert found is not None
    assert again is not None
    assert torch.equal(found[[1, 3]], again)
    for row, other in zip((1, 3), others, strict=True):
        assert all(map(torch.equal, contents(caches[row]), contents(other)))


def test_no_row_is_padded_to_another() -> None:
    """Logits after prompts of different lengths are those of the left-padded batch, which needs a mask."""
    model = made("chatglm")
    prompts = [[11, 12, 53, 50], [14, 15, 16, 17, 53, 50], [20, 21, 22, 53, 50]]
    alone = torch.cat([logits(model, [prompt]) for prompt in prompts])
    padded = [[SPECIAL["pad_token_id"]] * (6 - len(prompt)) + prompt for prompt in prompts]
    assert_close(logits(model, padded), alone, 1e-5)
    caches = [GrowingCache() for _ in prompts]
    for prompt, cache in zip(prompts, caches, strict=True):
        model(torch.tensor([prompt]), past_key_values=cache, use_cache=True)
    positions = torch.tensor([[prompt.index(53), 2] for prompt in prompts])[..., None]
    states = model.model.embed_tokens(torch.tensor([[30]] * 3))
    found = run_rows_step(model, (states, model.model.rotary_emb(positions, states.dtype)), caches)
    assert found is not None
    assert_close(model.lm_head(model.model.norm(found)), alone[:, 1:2], 1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_caches_in_half(dtype: torch.dtype) -> None:
    model = made()
    caches = [filled(model, length, dtype) for length in LENGTHS]
    alone = copy.deepcopy(caches)
    inputs = embedded(model, caches)
    found = run_rows_step(model, inputs, caches)
    assert found is not None
    assert_close(found, one_by_one(model, inputs, alone), 1e-6)
    assert {stored.dtype for cache in caches for stored in contents(cache)} == {dtype}


def test_it_is_left_to_torch() -> None:
    """And then no cache has been touched."""
    model = made()
    caches: list[Any] = [filled(model, length) for length in LENGTHS[:2]]
    inputs = embedded(model, caches)
    more = [filled(model, 4) for _ in range(native_step.MOST_SEQUENCES + 1)]
    assert run_rows_step(model, embedded(model, more), more) is None
    dynamic = DynamicCache()
    model(torch.tensor([[11, 12, 53, 50]]), past_key_values=dynamic, use_cache=True)
    for odd in (GrowingCache(), dynamic, filled(model, 4, torch.float16), filled(model, 4, copies=2)):
        assert run_rows_step(model, inputs, [caches[0], odd]) is None
    with torch.enable_grad():
        assert run_rows_step(model, inputs, caches) is None
    handle = model.model.layers[1].mlp.register_forward_hook(lambda *_: None)
    assert run_rows_step(model, inputs, caches) is None
    assert [cache.get_seq_length() for cache in caches] == list(LENGTHS[:2])
    assert {cache.get_seq_length() for cache in more} == {4}
    handle.remove()
    assert run_rows_step(model, inputs, caches) is not None


def test_a_cache_belongs_to_one_row() -> None:
    model = made()
    cache = filled(model, 5)
    with pytest.raises(AssertionError, match="a cache of its own"):
        run_rows_step(model, embedded(model, [cache, cache]), [cache, cache])
