"""Writes plans as text for people and as JSON for programs."""

from collections.abc import Sequence
from typing import Any

from ..model.configuration import GLMConfig
from .advice import Change
from .claims import Judged
from .estimate import CUBLAS_WORKSPACE, CUDA_CONTEXT, NCCL_BUFFERS, DevicePlan, Plan
from .gpus import GIB, MIB, USABLE_SHARE, write_gpus

NOTES = f"""\
Weights, KV cache and activations are counted on the model itself, without loading it; activations at the worst moment
of a prompt that fills the context. Assumed: {CUDA_CONTEXT // MIB} MiB for CUDA's context and kernels, \
{CUBLAS_WORKSPACE // MIB} MiB for cuBLAS,
{NCCL_BUFFERS // MIB} MiB for NCCL in every group of GPUs that talk; and that of the memory on the box the driver \
leaves {USABLE_SHARE:.1%}.
GiB = 2^30 bytes, as is the GB of GPU memory."""

_HEADINGS = ("", "layers", "weights", "KV cache", "activations", "CUDA", "needed", "usable", "free")


def plan_text(plan: Plan, name: str, advice: Sequence[Change]) -> str:
    """Return a table of the GPUs, the verdict, and the changes to make.

    Args:
        plan: what to show.
        name: the model's name as the user gave it.
        advice: changes that are each enough, the least costly first.
    """
    lines = [_title(plan, name), "", *_aligned([_HEADINGS, *_rows(plan)]), "", _verdict(plan)]
    if advice:
        lines += ["", "Each of these would be enough, the smallest change first:"]
        lines += [f"  {change.arguments:<34}{_free_memory(change.plan)}" for change in advice]
    return "\n".join([*lines, *_warnings(plan), "", NOTES])


def plan_json(plan: Plan, name: str, advice: Sequence[Change]) -> dict[str, Any]:
    """Return the content of :func:`plan_text` as a dictionary for JSON; sizes are bytes."""
    return {
        "model": name,
        "weights": weights_name(plan.workload.config, str(plan.workload.dtype)),
        "dtype": _dtype(plan),
        "context": plan.workload.context,
        "batch": plan.workload.batch,
        "gpus": write_gpus(plan.gpus),
        "split": str(plan.split),
        "fits": plan.fits,
        "lacking_bytes": plan.lacking,
        "unplaced_bytes": plan.unplaced,
        "devices": [_device_json(device) for device in plan.devices],
        "changes": [change.arguments for change in advice],
    }


def claims_text(judged: Sequence[Judged]) -> str:
    """Return the table of claims and plans, and a remark on each line that needs one."""
    headings = ("hardware", "model", "weights", "tokens", "needed", "usable", "fits", "claimed", "longest context")
    rows = [
        (
            one.claim.hardware,
            one.claim.model,
            weights_name(one.plan.workload.config, "torch.float16"),
            str(one.claim.context),
            *(_gib(size) for size in _fullest(one.plan)),
            _yes_or_no(one.plan.fits),
            _yes_or_no(one.claim.fits),
            str(one.longest or "none"),
        )
        for one in judged
    ]
    lines = ["GiB per GPU, on the fullest one; tensor parallel over all GPUs", ""]
    lines += [*_aligned([headings, *rows], text_columns=3), ""]
    agreeing = sum(one.agrees for one in judged)
    lines += [f"{agreeing} of {len(judged)} claims hold."]
    lines += [*(f"  {remark}" for one in judged if (remark := _remark(one))), "", NOTES]
    return "\n".join([*lines, *(f"Claims: {source}" for source in dict.fromkeys(one.claim.source for one in judged))])


def claims_json(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """Return the content of :func:`claims_text` as a list for JSON; sizes are bytes."""
    return [
        {
            **plan_json(one.plan, one.claim.model, []),
            "hardware": one.claim.hardware,
            "claimed": one.claim.fits,
            "agrees": one.agrees,
            "longest_context": one.longest,
            "source": one.claim.source,
        }
        for one in judged
    ]


def weights_name(config: GLMConfig, dtype: str) -> str:
    """Return the name of a model's weights: ``INT4``, ``INT4 with embeddings``, or the dtype, without ``torch.``."""
    if not config.quantization_bit:
        return dtype.removeprefix("torch.")
    return f"INT{config.quantization_bit}" + " with embeddings" * config.quantization_embeddings


def _title(plan: Plan, name: str) -> str:
    workload = plan.workload
    weights = weights_name(workload.config, str(workload.dtype))
    described = weights if weights == _dtype(plan) else f"{weights} weights, {_dtype(plan)}"
    tokens = f"context {workload.context}, batch {workload.batch}"
    return f"{name}, {described}, {tokens}\n{write_gpus(plan.gpus)}, {plan.split}; GiB"


def _dtype(plan: Plan) -> str:
    return str(plan.workload.dtype).removeprefix("torch.")


def _rows(plan: Plan) -> list[tuple[str, ...]]:
    """Return the rows of the table; neighbouring GPUs with equal numbers share a row."""
    groups: list[tuple[int, int, DevicePlan]] = []
    for index, device in enumerate(plan.devices):
        if groups and groups[-1][2] == device:
            groups[-1] = (groups[-1][0], index, device)
        else:
            groups.append((index, index, device))
    return [
        (
            f"GPU {first}" if first == last else f"GPU {first}-{last}",
            str(device.layers),
            *map(_gib, (device.weights, device.cache, device.activations, device.overhead)),
            *map(_gib, (device.needed, device.usable, device.free)),
        )
        for first, last, device in groups
    ]


def _verdict(plan: Plan) -> str:
    if plan.fits:
        is_tight = min(device.free / device.usable for device in plan.devices) < 0.03
        return "It fits" + (", with less than 3% to spare: allocations scatter, so it may not." if is_tight else ".")
    if plan.unplaced:
        return f"It does not fit: {_gib(plan.unplaced)} GiB of weights would go to CPU memory or disk."
    worst = min(range(len(plan.devices)), key=lambda index: plan.devices[index].free)
    return f"It does not fit: GPU {worst} lacks {_gib(plan.lacking)} GiB."


def _free_memory(plan: Plan) -> str:
    return f"leaves {_gib(min(device.free for device in plan.devices))} GiB ({plan.split})"


def _warnings(plan: Plan) -> list[str]:
    workload, lines = plan.workload, []
    trained_for = workload.config.max_sequence_length
    if workload.context > trained_for:
        lines.append(f"The model was trained for {trained_for} tokens; {workload.context} are beyond that.")
    return ["", *lines] if lines else []


def _fullest(plan: Plan) -> tuple[int, int]:
    device = min(plan.devices, key=lambda one: one.free)
    return device.needed, device.usable


def _remark(judged: Judged) -> str:
    """Return a sentence about a claim that "yes" and "no" in the table do not say; empty if there is none to add."""
    claim, lacking, whole = judged.claim, _gib(judged.plan.lacking), judged.whole
    subject = f"{claim.model}, {weights_name(judged.plan.workload.config, 'torch.float16')}, {claim.hardware}"
    if not judged.agrees:
        return f"{subject}: said to {'run' if claim.fits else 'need offloading'}; {lacking} GiB are lacking"
    if not claim.fits:
        short = f" (up to {judged.longest} tokens would fit)" * (judged.longest > 0)
        return f"{subject}: {lacking} GiB are lacking{short}, and it is said to need offloading"
    if whole.fits:
        return ""
    return f"{subject}: up to {judged.longest} tokens; {whole.workload.context} would lack {_gib(whole.lacking)} GiB"


def _device_json(device: DevicePlan) -> dict[str, int]:
    fields = ("layers", "weights", "cache", "activations", "overhead", "needed", "usable", "free")
    return {name: getattr(device, name) for name in fields}


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"


def _yes_or_no(value: bool) -> str:
    return "yes" if value else "no"


def _aligned(rows: Sequence[tuple[str, ...]], text_columns: int = 1) -> list[str]:
    """Return the rows as lines of aligned columns; the first ``text_columns`` are aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index < text_columns else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
