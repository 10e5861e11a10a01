"""Many writers in one batch: each answer is what it would be alone, and a fault ends the answers that it concerns."""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from glm_model.blank_filling import FillOptions
from glm_model.blank_filling.answers import answer_blank, fill_sampler, write_blank
from glm_model.errors import GLMError
from glm_model.generation.alone import run
from glm_model.generation.batch import Batch, Ended, Member
from glm_model.generation.row_passes import CachedRows
from glm_model.generation.stream import stream_text, write_text
from glm_model.options import SamplingOptions
from tests.generation.test_choosing import Spelled
from tests.generation.test_passes import MODELS, prompt
from tests.golden.data import FP32
from tests.golden.models import load


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    return MODELS[request.param]()


def sampling(length: int, answer: int, **options: Any) -> SamplingOptions:
    return SamplingOptions(**{"max_length": length + answer, "temperature": 0, **options})


def write(model: Any, ids: list[int], answer: int = 12, **options: Any) -> Any:
    return write_text(model, Spelled(), ids, sampling(len(ids), answer, **options))


def alone(model: Any, ids: list[int], answer: int = 12, **options: Any) -> str:
    """What the same writer writes by itself, through a pass of the whole prompt."""
    return "".join(chunk.text for chunk in run(model, write(model, ids, answer, **options)))


class Written:
    """What the members of a batch have written, and how they ended."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.texts: dict[Member, str] = {}
        self.ends: dict[Member, Ended] = {}

    def turn(self) -> None:
        for member, item in self.batch.turn():
            if isinstance(item, Ended):
                self.ends[member] = item
            else:
                self.texts[member] = self.texts.get(member, "") + item.text

    def finish(self) -> None:
        while len(self.batch):
            self.turn()


def test_answers_that_come_and_go_are_those_of_one_alone(model: Any) -> None:
    """With lengths, settings, arrivals and cancellations drawn at random, and some prompts equal."""
    draw = random.Random(5)
    written = Written(Batch(model, kept_tokens=60))
    requests: dict[Member, tuple[list[int], int, dict[str, Any]]] = {}
    cancelled = set()
    left = 40
    while left or len(written.batch):
        while left and len(written.batch) < 8 and draw.random() < 0.5:
            left -= 1
            ids = prompt(model, draw.randint(3, 30), draw.randint(0, 15))
            settings: list[dict[str, Any]] = [{}, {"temperature": 1.5, "seed": left}, {"prompt_lookup": 3}]
            options = draw.choice(settings)
            request = ids, draw.randint(1, 20), options
            requests[written.batch.insert(write(model, *request[:2], **options))] = request
        written.turn()
        if draw.random() < 0.1 and len(written.batch):
            member = draw.choice(list(written.batch._members))
            written.batch.remove(member)
            cancelled.add(member)
    assert 0 < len(cancelled) < 30
    assert written.batch.tokens <= 60
    for member, (ids, answer, options) in requests.items():
        wanted = alone(model, ids, answer, **options)
        found = written.texts.get(member, "")
        assert wanted.startswith(found) if member in cancelled else found == wanted
        if "temperature" not in options:  # as the library streams it, too
            streamed = stream_text(model, Spelled(), ids, sampling(len(ids), answer))
            assert wanted == "".join(chunk.text for chunk in streamed)


@pytest.mark.parametrize("strategy", ["sampling", "beam_search"])
def test_blanks_are_filled_beside_chats(model: Any, strategy: Any) -> None:
    options = FillOptions(strategy, max_length=24, temperature=0, num_beams=3)
    ids = prompt(model, 9)
    wanted = answer_blank(model, ids, 7, options)
    batch = Batch(model)
    chat = batch.insert(write(model, prompt(model, 14, 1), 30))
    filling = batch.insert(write_blank(model, ids, 7, options, fill_sampler(options)))
    items: list[tuple[Member, Any]] = []
    while len(batch):
        items += list(batch.turn())
    found: Any
    (found,) = [item.value for member, item in items if member is filling and isinstance(item, Ended)]
    assert [answer.token_ids for answer in found] == [answer.token_ids for answer in wanted]
    assert [answer.score for answer in found] == pytest.approx([answer.score for answer in wanted])
    text = "".join(item.text for member, item in items if member is chat and not isinstance(item, Ended))
    assert text == alone(model, prompt(model, 14, 1), 30)


def test_a_prompt_waits_between_its_layers_while_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(FP32)
    monkeypatch.setattr("glm_model.generation.batch.PROMPT_SHARE", 0.0)
    written = Written(Batch(model))
    first = written.batch.insert(write(model, prompt(model, 8), 30))
    while first not in written.texts:
        written.turn()
    second = written.batch.insert(write(model, prompt(model, 20, 1), 5))
    told = written.texts[first].count(",")
    while second.is_waiting_for_prompt or second.request is None:
        written.turn()
    # A turn for the request, one for the beginning and one for each layer.
    assert written.texts[first].count(",") - told >= model.config.num_layers
    written.finish()
    assert written.texts[second] == alone(model, prompt(model, 20, 1), 5)


def test_prompts_are_computed_in_the_order_of_their_arrival() -> None:
    model = load(FP32)
    written = Written(Batch(model))
    members = [written.batch.insert(write(model, prompt(model, 8, seed), 5)) for seed in range(4)]
    written.finish()
    assert list(written.texts) == members


# --- faults


def broken_at(call: int, method: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    """The method, which raises an error in its nth call."""
    calls = iter(range(1, 1_000_000))

    def breaking(*arguments: Any, **others: Any) -> Any:
        if next(calls) == call:
            raise error
        return method(*arguments, **others)

    return breaking


def three(written: Written, model: Any) -> list[Member]:
    return [written.batch.insert(write(model, prompt(model, 8 + seed, seed), 12)) for seed in range(3)]


def check_all_but(written: Written, model: Any, members: list[Member], ended: set[int], error: type[Exception]) -> None:
    for seed, member in enumerate(members):
        if seed in ended:
            assert isinstance(written.ends[member].error, error)
        else:
            assert written.ends[member].error is None
            assert written.texts[member] == alone(model, prompt(model, 8 + seed, seed), 12)
    assert written.batch.tokens == 0


@pytest.fixture
def plain() -> Any:
    return load(FP32)


@pytest.mark.parametrize("error", [RuntimeError("broken"), MemoryError()])
def test_an_error_in_a_prompt_ends_that_row(plain: Any, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CachedRows, "advance", broken_at(2, CachedRows.advance, error))
    written = Written(Batch(plain))
    members = three(written, plain)
    written.finish()
    check_all_but(written, plain, members, {0}, type(error))


@pytest.mark.parametrize("error", [RuntimeError("broken"), MemoryError()])
def test_an_error_in_a_step_ends_its_rows_and_the_batch_goes_on(
    plain: Any, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Written(Batch(plain))
    members = three(written, plain)
    while len(written.texts) < 3:
        written.turn()
    monkeypatch.setattr(CachedRows, "step", broken_at(1, CachedRows.step, error))
    late = written.batch.insert(write(plain, prompt(plain, 11, 3), 12))
    written.finish()
    check_all_but(written, plain, [*members, late], {0, 1, 2}, type(error))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_of_broken_scores_ends_alone(plain: Any, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    step, counts = CachedRows.step, Counter[int]()

    def breaking(self: CachedRows, rows: list[int], *arguments: Any) -> torch.Tensor:
        logits = step(self, rows, *arguments).clone()
        counts[len(rows)] += 1
        if len(rows) == 3 and counts[3] == 4:
            logits[1, 0, 17] = value
        return logits

    monkeypatch.setattr(CachedRows, "step", breaking)
    written = Written(Batch(plain))
    members = three(written, plain)
    written.finish()
    monkeypatch.setattr(CachedRows, "step", step)
    check_all_but(written, plain, members, {1}, GLMError)


def test_an_error_in_the_text_ends_that_row(plain: Any) -> None:
    class Broken(Spelled):
        def surface(self, token_id: int) -> str:
            raise UnicodeError("no such token")

    written = Written(Batch(plain))
    bad = written.batch.insert(write_text(plain, Broken(), prompt(plain, 9, 9), sampling(9, 5)))
    members = three(written, plain)
    written.finish()
    assert isinstance(written.ends[bad].error, UnicodeError)
    check_all_but(written, plain, members, set(), Exception)


def test_a_member_that_is_removed_leaves_nothing_behind(plain: Any) -> None:
    """In each state: before its first turn, in its prompt, after its prompt, and while it is decoded."""
    written = Written(Batch(plain))
    kept = written.batch.insert(write(plain, prompt(plain, 9, 9), 200))
    for turns in range(12):
        member = written.batch.insert(write(plain, prompt(plain, 12, turns), 30))
        for _ in range(turns):
            written.turn()
        written.batch.remove(member)
        assert written.batch._rows.count <= 1
    written.finish()
    assert written.texts[kept] == alone(plain, prompt(plain, 9, 9), 200)
    assert (written.batch.tokens, written.batch._rows._cached._caches) == (0, {})


@pytest.mark.parametrize(("answer", "kept"), [(12, 20), (40, 0)])
def test_a_kept_context_counts_with_the_memory_of_its_answer(plain: Any, answer: int, kept: int) -> None:
    written = Written(Batch(plain, kept_tokens=30))
    written.batch.insert(write(plain, prompt(plain, 9), answer))
    written.finish()
    # The last token of an answer is in no cache.
    assert written.batch.tokens == kept


def test_beams_of_which_one_cannot_be_copied_leave_nothing_behind(plain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CachedRows, "copy", broken_at(2, CachedRows.copy, MemoryError()))
    options = FillOptions("beam_search", max_length=24, num_beams=4)
    written = Written(Batch(plain))
    beams = written.batch.insert(write_blank(plain, prompt(plain, 9), 7, options, fill_sampler(options)))
    while len(written.batch):
        for _, item in written.batch.turn():
            last = item
    assert isinstance(last, Ended)
    assert isinstance(last.error, MemoryError)
    assert (written.batch.tokens, written.batch._rows._cached._caches) == (0, {})
    assert beams not in written.batch._members
