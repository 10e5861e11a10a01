"""Python's garbage collector rests while a front-end starts, and only there: the library leaves it to its host."""

import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.startup import collector_paused
from glm_model import CheckpointError, load


@pytest.fixture(autouse=True)
def _frozen_again() -> Iterator[None]:
    """The tests keep the libraries frozen; see conftest.py."""
    gc.unfreeze()
    yield
    gc.enable()
    gc.freeze()


def test_it_rests_in_the_block_alone() -> None:
    with collector_paused():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_works_again_after_a_model_that_cannot_be_loaded() -> None:
    with pytest.raises(CheckpointError), collector_paused():
        load("/no/such/folder")
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_whoever_has_switched_it_off_keeps_it_off() -> None:
    gc.disable()
    with collector_paused():
        pass
    assert not gc.isenabled()


def test_what_was_made_is_looked_at_no_more() -> None:
    with collector_paused():
        kept: list[list[int]] = [[] for _ in range(10_000)]
    assert gc.get_freeze_count() > len(kept)
    assert len(gc.get_objects()) < 1_000


# Every change of the collector's state is an error from the first import on.
HOST = """
import gc
def refuse(*_):
    raise SystemExit("the library changes the collector of its host")
gc.disable = gc.enable = gc.freeze = gc.unfreeze = gc.set_threshold = refuse
import glm_model
glm_model.load(device="cpu")
"""


def test_the_library_leaves_the_collector_of_its_host_alone() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", HOST], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
