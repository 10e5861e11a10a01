"""Rank 0 serves, the others follow; and when one of them dies, all end with a sentence."""

import itertools
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import distributed as dist

from glm_model import DEMO_MODEL, load
from glm_model.parallel.watch import Watch
from tests.parallel.chat import obey
from tests.parallel.processes import finish, start

# Sampling, a reader that leaves early, refusals, a stop: after each, the next answer shows that all ranks agree.
ORDERS: list[dict[str, Any]] = [
    {"kind": "chat", "text": "hello", "temperature": 0},
    {"kind": "chat", "text": "hello", "temperature": 1.5, "seed": 3},
    {"kind": "chat", "text": "Who are you?", "temperature": 0, "leave_after": 2},
    {"kind": "chat", "text": "hello", "max_length": 3},
    {"kind": "cancel", "text": "Who are you?", "temperature": 0},
    {"kind": "fill", "text": ""},
    {"kind": "fill", "text": "The capital of [MASK] is Paris.", "strategy": "beam_search", "num_beams": 2},
    {"kind": "fill", "text": "The capital of [MASK] is Paris.", "seed": 5},
]


GREEDY = {"temperature": 0, "max_length": 60}
TOGETHER: list[dict[str, Any]] = [
    *({"kind": "chat", "text": text, **GREEDY} for text in ("hello", "Who are you?", "What can you do?", "你好")),
    {"kind": "fill", "text": "The capital of [MASK] is Paris.", **GREEDY},
    {"kind": "fill", "text": "The capital of [MASK] is Paris.", "strategy": "beam_search", "num_beams": 2},
]
MANY = {"kind": "many", "orders": TOGETHER}


@pytest.fixture(scope="module")
def one() -> tuple[Any, Any]:
    """What one process has."""
    return load(DEMO_MODEL, device="cpu")


@pytest.fixture(scope="module")
def answers(one: tuple[Any, Any]) -> list[Any]:
    """What one process does."""
    return [obey(*one, order) for order in ORDERS]


@pytest.fixture(scope="module")
def told_alone(one: tuple[Any, Any]) -> list[Any]:
    """What one process answers to each of those who ask together, one after another."""
    return [obey(*one, order) for order in TOGETHER]


def tell(rank: subprocess.Popen[str], order: dict[str, Any]) -> None:
    assert rank.stdin is not None
    rank.stdin.write(json.dumps(order) + "\n")
    rank.stdin.flush()


def hear(rank: subprocess.Popen[str]) -> Any:
    assert rank.stdout is not None
    return json.loads(rank.stdout.readline())


@pytest.fixture
def ranks() -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes that share the layers, ready to be asked."""
    started = start(2, "-m", "tests.parallel.chat", 2, 1)
    try:
        assert hear(started[0]) == "ready"
        yield started
    finally:
        for rank in started:
            rank.kill()


def test_the_others_follow(answers: list[Any], told_alone: list[Any]) -> None:
    ranks = start(2, "-m", "tests.parallel.chat", 1, 2)
    unseeded = {"kind": "chat", "text": "hello", "temperature": 1.5}
    for order in [*ORDERS, unseeded, MANY, ORDERS[0]]:
        tell(ranks[0], order)
    (code, output, errors), *others = finish(ranks)
    assert code == 0, errors
    heard = [json.loads(line) for line in output.splitlines()]
    assert heard[1 : 1 + len(ORDERS)] == answers
    assert heard[-2] == told_alone
    assert heard[-1] == answers[0]
    assert [other[:2] for other in others] == [(0, "followed to the end\n")]


@pytest.mark.parametrize("dead", [0, 1])
def test_a_rank_that_dies_while_nobody_asks(dead: int, ranks: list[subprocess.Popen[str]]) -> None:
    ranks[dead].send_signal(signal.SIGKILL)
    other = ranks[1 - dead]
    code = other.wait(timeout=60)
    _, errors = other.communicate()
    assert code == 1
    assert f"rank {1 - dead} of 2 lost the others, so the whole job ends" in errors


@pytest.mark.parametrize("order", [ORDERS[0], MANY], ids=["one answer", "many answers"])
def test_a_rank_that_dies_in_the_middle_of_an_answer(
    order: dict[str, Any], told_alone: list[Any], ranks: list[subprocess.Popen[str]]
) -> None:
    tell(ranks[0], order)
    heard = hear(ranks[0])
    assert order is not MANY or heard == told_alone
    ranks[1].send_signal(signal.SIGKILL)
    tell(ranks[0], order)
    code, _, errors = finish(ranks, timeout=60)[0]
    assert code == 1
    assert "rank 0 of 2 lost the others, so the whole job ends" in errors


def test_a_rank_that_is_frozen(answers: list[Any]) -> None:
    """Its connections stay open, so that nothing but its silence tells. Either rank, of two jobs at once."""
    jobs = [start(2, "-m", "tests.parallel.chat", 2, 1, 3) for _ in range(2)]
    try:
        for frozen, ranks in enumerate(jobs):
            assert hear(ranks[0]) == "ready"
            tell(ranks[0], ORDERS[0])  # rank 1 may not be ready yet
            assert hear(ranks[0]) == answers[0]
            ranks[frozen].send_signal(signal.SIGSTOP)
        for frozen, ranks in enumerate(jobs):
            other = ranks[1 - frozen]
            code = other.wait(timeout=45)  # less than the patience it has by itself
            _, errors = other.communicate()
            assert code == 1
            assert f"rank {1 - frozen} of 2 lost the others, so the whole job ends" in errors
    finally:
        for rank in itertools.chain(*jobs):
            rank.kill()


def test_rank_0_ends_in_peace_when_another_has_died(ranks: list[subprocess.Popen[str]]) -> None:
    ranks[1].send_signal(signal.SIGKILL)
    code, _, errors = finish(ranks[:1], timeout=60)[0]  # closes its input
    assert code == 0, errors
    assert "Traceback" not in errors


def test_a_rank_that_dies_while_the_watch_is_set_up(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The one that was through first may be gone before the last one is."""
    lost = torch.distributed.DistNetworkError("Connection reset by peer")
    monkeypatch.setattr(dist, "new_group", Mock(side_effect=lost))
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(os, "_exit", Mock(side_effect=SystemExit))
    with pytest.raises(SystemExit):
        Watch()
    assert "rank 1 of 2 lost the others" in capsys.readouterr().err
