"""Rows of any lengths that take steps together: each gets what it would get alone."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from glm_model.errors import GLMError
from glm_model.generation.requests import Insert, Step
from glm_model.generation.row_passes import CachedRows, RowPasses, rows_can_join
from glm_model.generation.slot_rows import SlotRows
from glm_model.kernels import native
from glm_model.model.positions import derive_position_ids
from tests.generation.test_passes import LONGEST, MODELS, alone, prompt
from tests.golden.data import FP32, assert_close
from tests.golden.models import load


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    return MODELS[request.param]()


@pytest.fixture(params=["caches", "slots"])
def passes_of(request: pytest.FixtureRequest) -> Callable[..., RowPasses]:
    """A function of a model and of the tokens to keep. Slots are what a GPU has; here their steps are not recorded."""

    def make(model: Any, kept_tokens: int = 0) -> RowPasses:
        cached = SlotRows(model, 5, LONGEST) if request.param == "slots" else CachedRows(model)
        return RowPasses(model, cached, kept_tokens)

    return make


def insert(model: Any, ids: Sequence[int]) -> Insert:
    prompt = torch.tensor([ids])
    positions = derive_position_ids(model.config, prompt, torch.ones_like(prompt), LONGEST)
    return Insert(prompt, len(ids) - 1, positions)


def add(passes: RowPasses, *tokens: tuple[Insert, Sequence[int]]) -> list[Tensor]:
    """Take a step of some rows, and return the logits of each."""
    results = passes.step([Step(row.rows, [list(ids)]) for row, ids in tokens])
    return [result for result in results if isinstance(result, Tensor)]


def begun(passes: RowPasses, row: Insert) -> Tensor:
    result = passes.execute(row)
    assert isinstance(result, Tensor)
    return result[0, 0]


def counted(forward: Callable[..., Any], passes: list[int]) -> Callable[..., Any]:
    """Write down the number of rows of each pass."""

    def counting(input_ids: Tensor, **arguments: Any) -> Any:
        passes.append(len(input_ids))
        return forward(input_ids, **arguments)

    return counting


@pytest.mark.parametrize("library", [True, False], ids=["native", "torch"])
def test_rows_of_any_lengths_share_a_pass(model: Any, library: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """They join and leave between steps, and each gets what it would get alone."""
    monkeypatch.setattr(native, "is_loaded", lambda: library and native.is_usable())
    counts: list[int] = []
    monkeypatch.setattr(model, "forward", counted(model.forward, counts))
    prompts, tokens = [prompt(model, length, length) for length in (12, 7, 9)], [11, 12, 13, 14]
    wanted = [alone(model, ids, tokens) for ids in prompts]
    passes, taken = RowPasses(model, CachedRows(model)), [0, 0, 0]
    rows = [insert(model, ids) for ids in prompts]
    for each, first in zip(rows, wanted, strict=True):
        assert_close(begun(passes, each), first[0])
    counts.clear()
    for together in ((0, 1), (0, 1, 2), (2, 0), (1, 2), (2,)):
        found = add(passes, *((rows[row], [tokens[taken[row]]]) for row in together))
        for row, logits in zip(together, found, strict=True):
            taken[row] += 1
            assert_close(logits[0, 0], wanted[row][taken[row]])
    assert counts == [2, 3, 2, 2, 1]


def test_a_context_is_computed_layer_by_layer_between_steps(model: Any, passes_of: Callable[..., RowPasses]) -> None:
    ids, other = prompt(model, 12), insert(model, prompt(model, 9, 1))
    passes, row = passes_of(model), insert(model, ids)
    begun(passes, other)
    passes.begin(row)
    layers = 0
    while not passes.advance(row):
        layers += 1
        add(passes, (other, [11]))
    assert layers == model.config.num_layers
    (result,) = passes.step([passes.first_step(row)])
    assert isinstance(result, Tensor)
    assert_close(result[0, 0], alone(model, ids, [])[0])


def test_tokens_are_taken_back(model: Any, passes_of: Callable[..., RowPasses]) -> None:
    """As they must be for guesses, also after a step with others."""
    passes, ids = passes_of(model), prompt(model, 10)
    first, other = insert(model, ids), insert(model, prompt(model, 14))
    wanted = alone(model, ids, [11, 12, 13])
    begun(passes, first), begun(passes, other)
    assert first.rows.has_company
    add(passes, (first, [11]), (other, [11]))
    add(passes, (first, [50, 51]), (other, [12]))
    first.rows.forget(2)
    (found,) = add(passes, (first, [12, 13]))
    assert_close(found[0], torch.stack(wanted[2:]))


def test_beams_continue_any_of_their_number_beside_others(model: Any, passes_of: Callable[..., RowPasses]) -> None:
    ids = prompt(model, 10)
    passes, beams, other = passes_of(model), insert(model, ids), insert(model, prompt(model, 7))
    begun(passes, beams), begun(passes, other)
    beams.rows.select([0, 0, 0])
    passes.step([Step(beams.rows, [[11], [12], [13]]), Step(other.rows, [[5]])])
    beams.rows.select([2, 0, 2])
    result, _ = passes.step([Step(beams.rows, [[21], [22], [23]]), Step(other.rows, [[6]])])
    assert isinstance(result, Tensor)
    for row, tokens in enumerate(([13, 21], [11, 22], [13, 23])):
        assert_close(result[row, 0], alone(model, ids, tokens)[-1])
    assert passes.count == 4
    beams.rows.leave()
    assert passes.count == 1


def test_an_equal_context_is_not_computed_again(
    model: Any, passes_of: Callable[..., RowPasses], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither that of a row that is being decoded, nor one that was kept."""
    ids = prompt(model, 10)
    wanted = alone(model, ids, [11, 12])
    computed: list[int] = []
    layer = model.model.layers[0]
    monkeypatch.setattr(layer, "forward", counted(layer.forward, computed))
    passes = passes_of(model, kept_tokens=9)
    first, second, third = (insert(model, ids) for _ in range(3))
    begun(passes, first)
    add(passes, (first, [50]))
    computed.clear()
    assert passes.begin(second)
    second.rows.leave()
    first.rows.leave()
    assert (passes.count, passes.tokens) == (0, 9)
    assert_close(begun(passes, third), wanted[0])
    assert_close(add(passes, (third, [11]))[0][0, 0], wanted[1])
    assert len(computed) == 2  # the steps
    passes.kept_tokens = 8
    assert passes.tokens == 11
    third.rows.leave()
    assert passes.tokens == 0


@pytest.mark.parametrize("step", [2, 512])
def test_rows_in_slots_share_a_pass(model: Any, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a number of rows that is a power of two; a free slot is taken again, whatever its last row has left there."""
    monkeypatch.setattr("glm_model.generation.slot_rows.WIDTH_STEP", step)
    counts: list[int] = []
    monkeypatch.setattr(model, "forward", counted(model.forward, counts))
    prompts, tokens = [prompt(model, length, length) for length in (12, 7, 9, 5)], [11, 12, 13, 14, 15]
    wanted = [alone(model, ids, tokens) for ids in prompts]
    passes, taken = RowPasses(model, SlotRows(model, 3, LONGEST)), [0, 0, 0, 0]
    rows = [insert(model, ids) for ids in prompts]
    for each in rows[:3]:
        begun(passes, each)
    counts.clear()
    for together in ((0, 1), (0, 1, 2), (2, 0), (1, 2), (2, 3), (3,), (2, 3)):
        if together == (2, 3) and not taken[3]:
            rows[0].rows.leave()
            assert_close(begun(passes, rows[3]), wanted[3][0])
        found = add(passes, *((rows[row], [tokens[taken[row]]]) for row in together))
        for row, logits in zip(together, found, strict=True):
            taken[row] += 1
            assert_close(logits[0, 0], wanted[row][taken[row]])
    assert counts == [2, 3, 3, 3, 1, 3, 1, 3]
    with pytest.raises(GLMError, match=r"3 rows of \d+ tokens"):
        begun(passes, insert(model, prompts[0]))


def test_a_model_on_several_devices_cannot_join(model: Any) -> None:
    assert rows_can_join(model)
    assert not rows_can_join(copy.deepcopy(load(FP32)).to("meta"))
