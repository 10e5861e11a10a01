"""Python's garbage collector rests where much is made that stays, and only there."""

import gc
from collections.abc import Iterator

import pytest

from glm_model import CheckpointError, load
from glm_model.garbage import no_garbage_collection


def test_it_rests_in_the_block_alone() -> None:
    with no_garbage_collection():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_works_again_after_a_model_that_cannot_be_loaded() -> None:
    with pytest.raises(CheckpointError):
        load("/no/such/folder")
    assert gc.isenabled()


def test_whoever_has_switched_it_off_keeps_it_off() -> None:
    gc.disable()
    try:
        load()
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.fixture
def nothing_frozen() -> Iterator[None]:
    """The tests keep the libraries frozen; see conftest.py."""
    gc.unfreeze()
    yield
    gc.freeze()


@pytest.mark.usefixtures("nothing_frozen")
def test_what_was_made_counts_as_old() -> None:
    with no_garbage_collection():
        kept: list[list[int]] = [[] for _ in range(10_000)]
        assert len(gc.get_objects(generation=0)) > len(kept)
    assert len(gc.get_objects(generation=0)) < 1_000
    assert gc.get_freeze_count() == 0


def test_what_somebody_keeps_frozen_stays_so() -> None:
    frozen: list[int] = []
    gc.freeze()
    with no_garbage_collection():
        pass
    assert all(each is not frozen for each in gc.get_objects())  # which lists what is not
