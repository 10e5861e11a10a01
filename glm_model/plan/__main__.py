"""``python -m glm_model.plan``: whether a model fits the GPUs at hand, and what to change if not."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import torch

from ..command_line import EXIT_STATUS, FAILED, SUCCEEDED, Parser, run
from ..loading import DTYPES
from ..options import (
    QUANTIZATION_BITS,
    LoadOptions,
    Setting,
    Whole,
    add_hidden_alias,
    add_setting,
    add_settings,
    with_sentence,
)
from .advice import changes, with_quantization
from .claims import judge
from .estimate import Plan, Workload, make_plan
from .gpus import parse_gpus
from .models import PRESETS, find_config
from .placement import Split, default_split
from .report import claims_json, claims_text, plan_json, plan_text

_CONTEXT = Setting("context", 2048, Whole(1), "tokens of prompt and answer", metavar="N")
_BATCH = Setting("batch", 1, Whole(1), "conversations at once", metavar="N")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program. Return the exit status: 0 if the model fits, 1 if not."""
    return run("plan", lambda: _answer(arguments))


def _answer(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.table:
        return _show_table(options)
    try:
        split = _requested_split(options)
    except ValueError as error:
        parser.error(str(error))
    return _show_plan(options, split)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m glm_model.plan",
        description=f"{__doc__ or ''} Where no split is asked for it is tensor parallel over all GPUs, if the model "
        "divides so, otherwise a pipeline.",
        epilog=f"{EXIT_STATUS} Here 1 also says that the model does not fit, or that the table does not agree.",
    )
    presets = ", ".join(PRESETS)
    parser.add_argument(
        "--model",
        default="glm-130b",
        metavar="MODEL",
        help=f"{presets}, or a folder with a config.json (default: %(default)s)",
    )
    parser.add_argument(
        "--gpus",
        type=with_sentence(parse_gpus),
        metavar="4x24GB",
        help="cards and the memory of each; several kinds: 2x80GB,4x24GB",
    )
    add_settings(parser, LoadOptions, ["quantize", "quantize_head", "dtype"])
    add_hidden_alias(parser, "--embeddings", "quantize_head", action="store_true")
    add_setting(parser, _CONTEXT)
    add_setting(parser, _BATCH)
    parallel = ["tensor_parallel", "pipeline_parallel", "device_map"]
    add_settings(parser, LoadOptions, parallel, tensor_parallel=None, pipeline_parallel=None)
    parser.add_argument("--table", action="store_true", help="the hardware tables of GLM-130B and ChatGLM-6B, checked")
    parser.add_argument("--json", action="store_true", help="for programs; sizes in bytes")
    return parser


def _requested_split(options: argparse.Namespace) -> Split | None:
    """Return the split that the flags name, None if they name none. Raise ValueError if they contradict each other."""
    if options.gpus is None:
        raise ValueError("name the GPUs, as --gpus 4x24GB; or ask for --table")
    tensor, pipeline, count = options.tensor_parallel, options.pipeline_parallel, len(options.gpus)
    if options.device_map:
        if tensor or pipeline:
            raise ValueError("--device-map is one process; leave out --tensor-parallel and --pipeline-parallel")
        return Split(device_map=options.device_map)
    if tensor is None and pipeline is None:
        return None
    split = Split(tensor or max(1, count // pipeline), pipeline or max(1, count // tensor))
    split.require_gpus(count)
    return split


def _show_plan(options: argparse.Namespace, split: Split | None) -> int:
    plan = _plan(options, split)
    advice = [] if plan.fits else changes(plan)
    show = _as_json(plan_json(plan, options.model, advice)) if options.json else plan_text(plan, options.model, advice)
    print(show)
    return SUCCEEDED if plan.fits else FAILED


def _show_table(options: argparse.Namespace) -> int:
    judged = list(judge())
    print(_as_json(claims_json(judged)) if options.json else claims_text(judged))
    return SUCCEEDED if all(one.agrees for one in judged) else FAILED


def _plan(options: argparse.Namespace, split: Split | None) -> Plan:
    workload = _workload(options)
    return make_plan(workload, options.gpus, split or default_split(workload.config, len(options.gpus)))


def _workload(options: argparse.Namespace) -> Workload:
    config = find_config(options.model)
    bits, stored = QUANTIZATION_BITS.get(options.quantize, 0), config.quantization_bit or 0
    if options.quantize_head and not (bits or stored):
        raise ValueError("--quantize-head packs the embedding as well; add --quantize int8 or int4")
    dtype = DTYPES.get(options.dtype, torch.float16)  # auto, on a GPU
    workload = Workload(config, dtype, options.context, options.batch, stored_packed=bool(stored))
    if not stored:
        return with_quantization(workload, bits, options.quantize_head) if bits else workload
    if (bits or stored) != stored or (options.quantize_head and not config.quantization_embeddings):
        raise ValueError(f"{options.model} is INT{stored} already; name the float checkpoint to pack it otherwise")
    return workload


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=2)


if __name__ == "__main__":
    sys.exit(main())
