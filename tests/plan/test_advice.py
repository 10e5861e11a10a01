"""What is advised is enough, and a little less is not."""

import dataclasses
from typing import Any

import pytest
import torch

from glm_model.plan.__main__ import main
from glm_model.plan.advice import changes, largest
from glm_model.plan.estimate import Plan, Workload, make_plan
from glm_model.plan.gpus import GIB, GPU, parse_gpus
from glm_model.plan.models import preset
from glm_model.plan.placement import Split, default_split


def plan(model: str, gpus: str, bits: int = 0, split: Split | None = None, **workload: Any) -> Plan:
    config = preset(model, quantization_bit=bits)
    cards = parse_gpus(gpus)
    return make_plan(Workload(config, torch.float16, **workload), cards, split or default_split(config, len(cards)))


def arguments(found: Plan) -> list[str]:
    return [change.arguments for change in changes(found)]


@pytest.mark.parametrize(
    ("model", "gpus", "extra"),
    [
        ("glm-130b", "4x24GB", {}),
        ("chatglm-6b", "13GB", {}),
        ("chatglm-6b", "12GB", {"batch": 8, "context": 512}),
    ],
)
def test_every_change_fits_when_asked_for(model: str, gpus: str, extra: dict[str, Any], capsys: Any) -> None:
    asked = plan(model, gpus, **extra)
    assert not asked.fits
    assert arguments(asked)
    options = {"--model": model, "--gpus": gpus, **{f"--{name}": str(value) for name, value in extra.items()}}
    flat = [word for pair in options.items() for word in pair]
    assert main(flat) == 1
    for change in arguments(asked):
        assert main([*flat, *change.split()]) == 0, change  # what comes later on the command line counts


def test_the_changes_are_the_smallest() -> None:
    asked = plan("chatglm-6b", "13GB")
    found = {change.arguments.split()[0]: change.plan for change in changes(asked)}
    context = found["--context"].workload.context
    longer = dataclasses.replace(asked.workload, context=context + 1)
    assert not make_plan(longer, asked.gpus, asked.split).fits
    hopeless = plan("glm-130b", "4x24GB")
    (gpus,) = (change.plan.gpus for change in changes(hopeless) if change.arguments.startswith("--gpus 1"))
    assert not plan("glm-130b", f"{len(gpus) - 1}x24GB").fits


def test_order_and_reason() -> None:
    assert [word.split()[0] for word in arguments(plan("chatglm-6b", "13GB"))] == [
        "--context",
        "--quantize",
        "--gpus",
        "--gpus",
    ]
    # A context under half of what was asked for comes last.
    first, *_, last = arguments(plan("chatglm-6b", "12.6GB"))
    assert first == "--quantize int8"
    assert last.startswith("--context")


def test_fewer_conversations_at_once() -> None:
    asked = plan("chatglm-6b", "13GB", bits=8, batch=9)
    first = changes(asked)[0]
    batch = first.plan.workload.batch
    assert first.arguments == f"--batch {batch}"
    assert not make_plan(dataclasses.replace(asked.workload, batch=batch + 1), asked.gpus, asked.split).fits


def test_another_split_costs_nothing() -> None:
    asked = plan("glm-130b", "4x24GB", 4, Split(device_map="sequential"))
    assert not asked.fits
    assert arguments(asked)[0] == "--tensor-parallel 4 --pipeline-parallel 1"


def test_int4_and_more_gpus_together() -> None:
    found = arguments(plan("glm-130b", "2x24GB"))
    assert "--quantize int4 --gpus 4x24GB" in found
    assert not any(change == "--quantize int4" for change in found)


def test_what_is_stored_packed_is_not_packed_again() -> None:
    config = preset("chatglm-6b", quantization_bit=8)
    asked = make_plan(Workload(config, context=2048, stored_packed=True), (GPU(5 * GIB),), Split())
    assert not asked.fits
    assert not any("--quantize" in change for change in arguments(asked))
    assert any("--quantize int4" in change for change in arguments(plan("chatglm-6b", "5GB", 8)))


def test_float32_may_become_int8() -> None:
    config = preset("chatglm-6b")
    asked = make_plan(Workload(config, torch.float32), (GPU(16 * GIB),), Split())
    assert "--quantize int8" in arguments(asked)


def test_nothing_is_small_enough() -> None:
    asked = plan("glm-130b", "0.5GB", 4)
    assert largest(asked, "context", 2048) is None
    assert all(change.startswith("--gpus") for change in arguments(asked))
