"""Rows that join, step and leave: whatever is done to the others, a row gets what it would get alone."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from glm_model.generation.passes import DecodingBatch, Rows
from glm_model.model.positions import derive_position_ids
from tests.golden import test_glm130b
from tests.golden.data import FP32, PACKED, TUNED, assert_close
from tests.golden.models import load

LONGEST = 40
MODELS: dict[str, Callable[[], Any]] = {
    "ChatGLM": lambda: load(FP32),
    "INT4": lambda: load(PACKED[0]),
    "prefix": lambda: load(TUNED[0]),
    "GLM-130B": test_glm130b.load,
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    return MODELS[request.param]()


def prompt(model: Any, length: int, seed: int = 0) -> list[int]:
    words = torch.randint(10, 60, (length - 2,), generator=torch.Generator().manual_seed(seed)).tolist()
    return [*words, model.config.gmask_token_id, model.config.bos_token_id]


def insert(batch: DecodingBatch, model: Any, prompts: Sequence[Sequence[int]]) -> tuple[Rows, Tensor]:
    """Let prompts join together, padded in front."""
    length = max(map(len, prompts))
    padding = [[model.config.pad_token_id] * (length - len(ids)) for ids in prompts]
    ids = torch.tensor([[*pads, *ids] for pads, ids in zip(padding, prompts, strict=True)])
    mask = torch.tensor([[0] * len(pads) + [1] * (length - len(pads)) for pads in padding])
    return batch.insert(ids, derive_position_ids(model.config, ids, mask, LONGEST), mask)


def alone(model: Any, ids: Sequence[int], tokens: Sequence[int]) -> list[Tensor]:
    """The logits [vocab] after a prompt and after each further token, from one pass over everything."""
    with torch.no_grad():
        logits = model(torch.tensor([[*ids, *tokens]])).logits[0]
    return list(logits[len(ids) - 1 :])


def test_rows_join_step_and_leave(model: Any) -> None:
    prompts, tokens = [prompt(model, length, length) for length in (12, 7, 9)], [11, 12, 13, 14, 15]
    wanted = [alone(model, ids, tokens) for ids in prompts]
    batch = DecodingBatch(model)
    first, logits = insert(batch, model, prompts[:1])
    assert_close(logits[0], wanted[0][0])
    assert_close(batch.step({first: torch.tensor([tokens[:1]])})[first][0, 0], wanted[0][1])
    others, logits = insert(batch, model, prompts[1:])
    assert_close(logits, torch.stack([wanted[1][0], wanted[2][0]]))
    found = batch.step({first: torch.tensor([tokens[1:2]]), others: torch.tensor([tokens[:1]] * 2)})
    assert_close(found[first][0, 0], wanted[0][2])
    assert_close(found[others][:, 0], torch.stack([wanted[1][1], wanted[2][1]]))
    batch.remove(first)
    assert len(batch) == 1
    others.select([1])
    assert len(others) == 1
    assert_close(batch.step({others: torch.tensor([tokens[1:2]])})[others][0, 0], wanted[2][2])


def test_several_tokens_in_a_step_and_back(model: Any) -> None:
    ids, tokens = prompt(model, 10), [11, 12, 13, 14]
    wanted = alone(model, ids, tokens)
    batch = DecodingBatch(model)
    rows, _ = insert(batch, model, [ids])
    assert_close(batch.step({rows: torch.tensor([[11, 50, 51]])})[rows][0, 0], wanted[1])
    rows.forget(2)
    assert rows.length == len(ids) + 1
    assert_close(batch.step({rows: torch.tensor([tokens[1:]])})[rows][0], torch.stack(wanted[2:]))


def test_beams_continue_any_of_their_number(model: Any) -> None:
    ids = prompt(model, 10)
    batch = DecodingBatch(model)
    rows, _ = insert(batch, model, [ids])
    rows.select([0, 0, 0])
    batch.step({rows: torch.tensor([[11], [12], [13]])})
    rows.select([2, 0, 2])
    found = batch.step({rows: torch.tensor([[21], [22], [23]])})[rows]
    for row, tokens in enumerate(([13, 21], [11, 22], [13, 23])):
        assert_close(found[row, 0], alone(model, ids, tokens)[-1])


def test_a_cache_of_the_callers_goes_on_being_one() -> None:
    model = load(FP32)
    ids = torch.tensor([prompt(model, 10)])
    positions = derive_position_ids(model.config, ids, torch.ones_like(ids), LONGEST)
    cache = DynamicCache()
    batch = DecodingBatch(model)
    rows, _ = batch.insert(ids, positions, cache=cache)
    found = batch.step({rows: torch.tensor([[11]])})[rows]
    assert cache.get_seq_length() == 11
    assert not cache.layers[0].keys.is_inference()
    with torch.no_grad():  # the same token again, behind what is cached
        cache.crop(-1)
        again = model(torch.tensor([[11]]), position_ids=positions[..., 10:11], cache=cache).logits
    assert torch.equal(found, again)


def test_the_dtype_of_the_cache_is_that_of_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(FP32)
    monkeypatch.setattr(model.runtime, "cache_dtype", torch.bfloat16)
    rows, _ = insert(DecodingBatch(model), model, [prompt(model, 10)])
    assert rows._cache is not None
    assert {layer.keys.dtype for layer in rows._cache.layers} == {torch.bfloat16}
