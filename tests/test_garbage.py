"""Python's garbage collector rests where much is made that stays, and only there."""

import gc

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
