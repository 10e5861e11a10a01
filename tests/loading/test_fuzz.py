"""300 damaged checkpoints; 5,000 with ``python -m tests.loading.fuzz --cases 5000``."""

import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.loading import fuzz

CASES = 300


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fuzz.Fuzzer]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads do not survive a fork
    try:
        yield fuzz.Fuzzer(tmp_path_factory.mktemp("fuzz"))
    finally:
        torch.set_num_threads(threads)


def test_damaged_checkpoints_end_in_a_sentence_or_in_the_same_answer(fuzzer: fuzz.Fuzzer) -> None:
    counts: Counter[str] = Counter()
    faults = []
    for number in range(CASES):
        outcome, damage = fuzzer.run(number)
        counts[outcome.kind] += 1
        if outcome.kind not in fuzz.ALLOWED:
            faults.append(f"{outcome.kind}: {damage} -> {outcome.told[:500]}")
    assert not faults, "\n".join(faults)
    assert counts["sentence"] > CASES // 2
    assert counts["same"] > CASES // 20


def test_a_seed_makes_the_same_damage(fuzzer: fuzz.Fuzzer) -> None:
    assert fuzzer.run(3)[1] == fuzzer.run(3)[1]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (lambda source, root: dict[str, bytes]()["x"], "bare KeyError"),
        (lambda source, root: time.sleep(100), "signal 14"),
        (lambda source, root: next(number for number in itertools.count() if number < 0), "signal 24"),
        (lambda source, root: bytearray(b"x") * (800 << 20), "memory"),
        (lambda source, root: b"other", "value"),
    ],
    ids=["exception", "waiting", "time", "memory", "another answer"],
)
def test_the_fuzzer_sees_what_is_not_allowed(
    fuzzer: fuzz.Fuzzer, answer: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "answer", answer)
    if kind.startswith("signal"):  # the others end by themselves, on a slow machine after more than a second
        monkeypatch.setattr(fuzz, "SECONDS", 1)
    source = random.Random(0).choice(fuzzer.sources)
    assert fuzz.run_case(source, source.root, b"")[0] == kind
