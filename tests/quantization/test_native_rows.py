"""Sequences of different lengths, each with a cache of its own, in one native step: each as if it were alone."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from glm_model.kernels import native
from glm_model.kernels.dispatch import Precision
from glm_model.model import native_step
from glm_model.model.kv_cache import GrowingCache
from glm_model.model.row_cache import RowCache, RowCaches
from tests.golden.data import assert_close
from tests.quantization.test_native_decoder import MODELS, SPECIAL, logits, made

if not native.is_usable():
    pytest.skip("no native kernel here", allow_module_level=True)

LENGTHS = (3, 12, 5, 24, 4)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def prompts(length: int, count: int = 1) -> Tensor:
    """Drawn prompts of so many tokens, [count, length]."""
    context = torch.randint(10, 40, (count, length - 2), generator=torch.Generator().manual_seed(length))
    ends = torch.tensor([[SPECIAL["gmask_token_id"], SPECIAL["bos_token_id"]]]).expand(count, 2)
    return torch.cat([context, ends], dim=1)


def filled(model: Any, length: int, dtype: torch.dtype | None = None, ids: Tensor | None = None) -> RowCache:
    """A cache with a prompt of so many tokens."""
    cache = RowCache(length + 8, dtype)
    model(prompts(length) if ids is None else ids, cache=cache, use_cache=True)
    assert cache.get_seq_length() == length
    return cache


def embedded(model: Any, caches: Sequence[RowCache], seed: int = 0) -> tuple[Tensor, tuple[Tensor, Tensor]]:
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


def run_rows_step(
    model: Any, inputs: tuple[Tensor, tuple[Tensor, Tensor]], caches: Sequence[RowCache]
) -> Tensor | None:
    return native_step.layers_step(model.model.layers, model.config, *inputs, None, RowCaches(caches))


def contents(cache: RowCache) -> list[Tensor]:
    """Keys and values of every layer, each [1, heads, length, head_dim]."""
    assert cache.states is not None
    return list(cache.states[:, :, :, : cache.get_seq_length()].flatten(0, 1)[:, None])


def one_by_one(model: Any, inputs: tuple[Tensor, tuple[Tensor, Tensor]], caches: Sequence[RowCache]) -> Tensor:
    """The same in steps of one row."""
    outputs = []
    for row, cache in enumerate(caches):
        out = run_rows_step(model, part(slice(row, row + 1), *inputs), [cache])
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
    ids, shared = prompts(9, 5), GrowingCache()
    model(ids, cache=shared, use_cache=True)
    caches = [filled(model, 9, ids=ids[row : row + 1]) for row in range(5)]
    for row, cache in enumerate(caches):  # the keys and values of a prompt alone may differ in the last bit
        for stored, layer in zip(cache.states if cache.states is not None else (), shared.layers, strict=True):
            stored[:, :, :9] = torch.stack([layer.keys[row], layer.values[row]])
    for step in range(3):
        inputs = embedded(model, caches, step)
        wanted = native_step.layers_step(model.model.layers, model.config, *inputs, None, shared)
        found = run_rows_step(model, inputs, caches)
        assert found is not None
        assert wanted is not None
        assert torch.equal(found, wanted)
    of_shared = [stored for layer in shared.layers for stored in (layer.keys, layer.values)]
    for stored, *own in zip(of_shared, *map(contents, caches), strict=True):
        assert torch.equal(torch.cat(own), stored)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", MODELS)
def test_company_changes_no_bit_of_fast(kind: str, bits: int) -> None:
    """Neither how many others are in a step nor who they are nor how long they are."""
    model = made(kind, bits, "fast")
    caches = [filled(model, length) for length in (*LENGTHS, *range(6, 33))]
    inputs = embedded(model, caches)
    before = copy.deepcopy(caches)
    found = run_rows_step(model, inputs, caches)
    assert found is not None
    for rows in ([4], [4, 1], [20, 1, 4], list(range(9)), list(range(17, 0, -1))):
        others = copy.deepcopy([before[row] for row in rows])
        again = run_rows_step(model, (inputs[0][rows], (inputs[1][0][rows], inputs[1][1][rows])), others)
        assert again is not None
        assert torch.equal(found[rows], again)
        for row, other in zip(rows, others, strict=True):
            assert all(map(torch.equal, contents(caches[row]), contents(other)))


def test_no_row_is_padded_to_another() -> None:
    """Logits after prompts of different lengths are those of the left-padded batch, which needs a mask."""
    model = made("chatglm")
    texts = [[11, 12, 53, 50], [14, 15, 16, 17, 53, 50], [20, 21, 22, 53, 50]]
    alone = torch.cat([logits(model, [prompt]) for prompt in texts])
    padded = [[SPECIAL["pad_token_id"]] * (6 - len(prompt)) + prompt for prompt in texts]
    assert_close(logits(model, padded), alone, 1e-5)
    caches = [filled(model, len(prompt), ids=torch.tensor([prompt])) for prompt in texts]
    positions = torch.tensor([[prompt.index(53), 2] for prompt in texts])[..., None]
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
    caches = [filled(model, length) for length in LENGTHS[:2]]
    inputs = embedded(model, caches)
    more = [filled(model, 4) for _ in range(native_step.MOST_SEQUENCES + 1)]
    assert run_rows_step(model, embedded(model, more), more) is None
    full = RowCache(4)
    model(prompts(4), cache=full, use_cache=True)
    for odd in (RowCache(8), full, filled(model, 4, torch.float16)):
        assert run_rows_step(model, inputs, [caches[0], odd]) is None
    with torch.enable_grad():
        assert run_rows_step(model, inputs, caches) is None
    handle = model.model.layers[1].mlp.register_forward_hook(lambda *_: None)
    assert run_rows_step(model, inputs, caches) is None
    assert [cache.get_seq_length() for cache in caches] == list(LENGTHS[:2])
    assert {cache.get_seq_length() for cache in more} == {4}
    handle.remove()
    assert run_rows_step(model, inputs, caches) is not None
