"""What to change when a model does not fit: every single change that would do, found by planning again."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import GLMError
from .estimate import Plan, Workload, make_plan
from .gpus import GPU, write_gpus
from .models import with_fields
from .placement import default_split

_MOST_GPUS = 64


@dataclass(frozen=True)
class Change:
    """One change that makes it fit.

    Attributes:
        arguments: of the command line, in the place of those given.
        plan: what comes of it.
    """

    arguments: str
    plan: Plan


def changes(plan: Plan) -> list[Change]:
    """Changes that would each be enough, the smallest first.

    Small is what costs nothing but a word: another split. Then come fewer conversations at once, a context of at least
    half, coarser weights, more GPUs, larger ones, and last a context shorter than half.
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
    """The plan with the largest ``context`` or ``batch`` up to a limit that fits; None if not even 1 does."""

    def replanned(value: int) -> Plan:
        changed: dict[str, Any] = {field: value}
        return make_plan(dataclasses.replace(plan.workload, **changed), plan.gpus, plan.split)

    return _last_that_fits(replanned, limit)


def with_quantization(workload: Workload, bits: int, embeddings: bool) -> Workload:
    """The same with packed weights, those of the embedding and the head too if ``embeddings``."""
    packed = with_fields(workload.config, quantization_bit=bits, quantization_embeddings=embeddings)
    return dataclasses.replace(workload, config=packed)


def _last_that_fits(replanned: Callable[[int], Plan], limit: int) -> Plan | None:
    """Bisection over 1 to ``limit``, where whatever is larger needs more."""
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
    for arguments, workload in _coarser(plan.workload):
        tried = make_plan(workload, plan.gpus, plan.split)
        if tried.fits:
            yield Change(arguments, tried)
            return


def _coarser(workload: Workload) -> Iterator[tuple[str, Workload]]:
    """The next smaller weights that the checkpoint can be quantized to, one after the other."""
    if workload.stored_packed:
        return
    bits = workload.config.quantization_bit or workload.dtype.itemsize * 8
    for fewer in (8, 4):
        if fewer < bits:
            yield f"--quantize int{fewer}", with_quantization(workload, fewer, False)
    if (bits, workload.config.quantization_embeddings) != (4, True):
        yield "--quantize int4 --quantize-head", with_quantization(workload, 4, True)


def _more_gpus(plan: Plan, before: str = "") -> Iterator[Change]:
    """The smallest number of GPUs; the new ones are like the last."""
    for count in range(len(plan.gpus) + 1, _MOST_GPUS + 1):
        gpus = plan.gpus + plan.gpus[-1:] * (count - len(plan.gpus))
        tried = _spread_anew(plan, gpus)
        if tried is not None and tried.fits:
            yield Change(f"{before}--gpus {write_gpus(gpus)}", tried)
            return


def _quantized_on_more_gpus(plan: Plan) -> Iterator[Change]:
    """Where INT4 alone is not enough, and more GPUs alone would be many."""
    if plan.workload.stored_packed or plan.workload.config.quantization_bit == 4:
        return
    packed = make_plan(with_quantization(plan.workload, 4, False), plan.gpus, plan.split)
    if not packed.fits:
        yield from _more_gpus(packed, "--quantize int4 ")


def _larger_gpus(plan: Plan) -> Iterator[Change]:
    if plan.split.device_map:
        return  # it would deal out the layers in another way
    card = GPU.with_usable(max(device.needed for device in plan.devices))
    gpus = tuple(max(gpu, card, key=lambda one: one.memory) for gpu in plan.gpus)
    yield Change(f"--gpus {write_gpus(gpus)}", make_plan(plan.workload, gpus, plan.split))


def _spread_anew(plan: Plan, gpus: tuple[GPU, ...]) -> Plan | None:
    """On other GPUs, spread as before in kind; None if the model cannot be spread over so many."""
    split = plan.split if plan.split.device_map else default_split(plan.workload.config, len(gpus))
    try:
        return make_plan(plan.workload, gpus, split)
    except GLMError:
        return None
