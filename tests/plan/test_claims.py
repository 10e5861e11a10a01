"""The original projects' hardware tables."""

import json
import re
from typing import Any

import pytest

from glm_model.plan.__main__ import main
from glm_model.plan.claims import Judged, judge
from glm_model.plan.gpus import GIB

# From the projects' pages, written apart from the source: cards, memory of each, weights, whether it runs there.
SAID = [
    ("glm-130b", "8x40GB", "float16", True),
    ("glm-130b", "8x32GB", "float16", False),
    ("glm-130b", "8x32GB", "INT8", True),
    ("glm-130b", "8x24GB", "INT8", True),
    ("glm-130b", "4x24GB", "INT4", True),
    ("glm-130b", "8x11GB", "INT4", True),
    ("glm-130b", "1x80GB", "INT4", True),
    ("chatglm-6b", "1x13GB", "float16", True),
    ("chatglm-6b", "1x10GB", "INT8", True),
    ("chatglm-6b", "1x6GB", "INT4", True),
]


@pytest.fixture(scope="module")
def judged() -> list[Judged]:
    return list(judge())


def test_the_tables_are_reproduced(capsys: Any) -> None:
    assert main(["--table", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["model"], row["gpus"], row["weights"], row["fits"]) for row in rows] == SAID
    assert all(row["agrees"] for row in rows)


def test_lower_bounds_by_hand(judged: list[Judged]) -> None:
    """Weights of 128.7 and 6.17 billion parameters and the cache, shared evenly; a plan needs more, but little more."""
    for one in judged:
        plan = one.plan
        config, count = plan.workload.config, len(plan.gpus)
        parameters = 128.7e9 if one.claim.model == "glm-130b" else 6.17e9
        looked_up = config.vocab_size * config.hidden_size
        bits = config.quantization_bit or 16
        weights = (parameters - looked_up) * bits / 8 + looked_up * 2
        cache = 2 * config.num_layers * one.claim.context * config.hidden_size * 2
        least = (weights + cache) / count
        needed = max(device.needed for device in plan.devices)
        assert least < needed < 1.02 * least + 2 * GIB


def test_the_longest_context_is_the_longest(judged: list[Judged]) -> None:
    by_name = {(one.claim.model, one.claim.gpus): one for one in judged}
    tight = by_name["chatglm-6b", "13GB"]
    assert 1024 <= tight.longest < 2048
    assert not tight.whole.fits
    assert all(one.whole.fits for one in judged if one.longest == 2048)


def test_the_text_says_what_the_table_leaves_out(capsys: Any) -> None:
    main(["--table"])
    text = capsys.readouterr().out
    assert "10 of 10 claims hold." in text
    assert "chatglm-6b, float16, a card of 13 GB: up to" in text
    assert re.search(
        r"8 x V100 of 32 GB: 0\.\d+ GiB are lacking \(up to \d+ tokens would fit\), and it is said to need offloading",
        text,
    )
    assert "https://github.com/THUDM/GLM-130B" in text
