"""Finds what to change when a model does not fit: each single change is tried by making the plan again with it."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import GLMError
from .estimate import Plan, Workload, make_plan
from .gpus import GPU, write_gpus
from .models import with_fields
from .placement import default_split

_MAX_GPUS = 64


@dataclass(frozen=True)
class Change:
    """One change that makes the model fit.

    Attributes:
        arguments: command-line arguments that replace those given, such as ``--batch 2``.
        plan: the plan with this change; it fits.
    """

    arguments: str
    plan: Plan


def changes(plan: Plan) -> list[Change]:
    """Return the changes that are each enough to make the model fit, the least costly first.

    The order is: another split, which costs nothing; fewer conversations at once; a shorter context of at least half
    the tokens; weights of fewer bits; more GPUs; larger GPUs; a context shorter than half.
    """
    shorter = list(_less_of("context", plan))
    short = any(change.plan.workload.context < plan.workload.context / 2 for change in shorter)
    return [
        *_other_split(plan),
        *_less_of("batch", plan),
        *(shorter if not short else []),
        *_quantized(plan),
        *_more_gpus(plan),
        *_quantized_on_more_gpus(plan),
        *_larger_gpus(plan),
        *(shorter if short else []),
    ]


def largest(plan: Plan, field: Literal["batch", "context"], limit: int) -> Plan | None:
    """Return the plan with the largest ``context`` or ``batch`` up to ``limit`` that fits; None if not even 1 fits."""

    def replanned(value: int) -> Plan:
        changed: dict[str, Any] = {field: value}
        return make_plan(dataclasses.replace(plan.workload, **changed), plan.gpus, plan.split)

    return _last_that_fits(replanned, limit)


def with_quantization(workload: Workload, bits: int, embeddings: bool) -> Workload:
    """Return the workload with weights packed to ``bits``; with ``embeddings`` also those of embedding and head."""
    packed = with_fields(workload.config, quantization_bit=bits, quantization_embeddings=embeddings)
    return dataclasses.replace(workload, config=packed)


def _last_that_fits(replanned: Callable[[int], Plan], limit: int) -> Plan | None:
    """Return the plan of the largest value from 1 to ``limit`` that fits, found by bisection; None if none fits.

    Bisection is valid because a larger value never needs less memory.
    """
    best, low, high = None, 1, limit
    while low <= high:
        middle = (low + high + 1) // 2
        tried = replanned(middle)
        if tried.fits:
            best, low = tried, middle + 1
        else:
            high = middle - 1
    return best


def _less_of(field: Literal["batch", "context"], plan: Plan) -> Iterator[Change]:
    found = largest(plan, field, getattr(plan.workload, field) - 1)
    if found is not None:
        yield Change(f"--{field} {getattr(found.workload, field)}", found)


def _other_split(plan: Plan) -> Iterator[Change]:
    split = default_split(plan.workload.config, len(plan.gpus))
    tried = make_plan(plan.workload, plan.gpus, split)
    if tried.fits:
        yield Change(split.arguments, tried)


def _quantized(plan: Plan) -> Iterator[Change]:
    for arguments, workload in _with_fewer_bits(plan.workload):
        tried = make_plan(workload, plan.gpus, plan.split)
        if tried.fits:
            yield Change(arguments, tried)
            return


def _with_fewer_bits(workload: Workload) -> Iterator[tuple[str, Workload]]:
    """Yield flags and workload of each quantization that makes the weights smaller, the least reduction first.

    A checkpoint that is packed already allows none.
    """
    if workload.stored_packed:
        return
    bits = workload.config.quantization_bit or workload.dtype.itemsize * 8
    for fewer in (8, 4):
        if fewer < bits:
            yield f"--quantize int{fewer}", with_quantization(workload, fewer, False)
    if (bits, workload.config.quantization_embeddings) != (4, True):
        yield "--quantize int4 --quantize-head", with_quantization(workload, 4, True)


def _more_gpus(plan: Plan, before: str = "") -> Iterator[Change]:
    """Yield the smallest number of GPUs that is enough; added GPUs have the memory of the last one.

    Args:
        before: flags of a change that ``plan`` includes already; they are put before ``--gpus``.
    """
    for count in range(len(plan.gpus) + 1, _MAX_GPUS + 1):
        gpus = plan.gpus + plan.gpus[-1:] * (count - len(plan.gpus))
        tried = _plan_on(plan, gpus)
        if tried is not None and tried.fits:
            yield Change(f"{before}--gpus {write_gpus(gpus)}", tried)
            return


def _quantized_on_more_gpus(plan: Plan) -> Iterator[Change]:
    """Yield INT4 weights together with more GPUs, if INT4 weights alone are not enough."""
    if plan.workload.stored_packed or plan.workload.config.quantization_bit == 4:
        return
    packed = make_plan(with_quantization(plan.workload, 4, False), plan.gpus, plan.split)
    if not packed.fits:
        yield from _more_gpus(packed, "--quantize int4 ")


def _larger_gpus(plan: Plan) -> Iterator[Change]:
    if plan.split.device_map:
        return  # larger GPUs would make the device map place the layers otherwise
    card = GPU.with_usable(max(device.needed for device in plan.devices))
    gpus = tuple(max(gpu, card, key=lambda one: one.memory) for gpu in plan.gpus)
    yield Change(f"--gpus {write_gpus(gpus)}", make_plan(plan.workload, gpus, plan.split))


def _plan_on(plan: Plan, gpus: tuple[GPU, ...]) -> Plan | None:
    """Return the plan on other GPUs: with the same device map, or else with the default split.

    Return None if the model cannot be split over this number of GPUs.
    """
    split = plan.split if plan.split.device_map else default_split(plan.workload.config, len(gpus))
    try:
        return make_plan(plan.workload, gpus, split)
    except GLMError:
        return None
