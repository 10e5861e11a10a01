"""``python -m glm_model.plan``: whether a model fits the GPUs at hand, and what to change if not."""

import argparse
import json
import sys
from typing import Any, get_args

from ..loading import DTYPES
from .advice import changes, with_quantization
from .claims import judge
from .estimate import Plan, Workload, make_plan
from .gpus import parse_gpus
from .models import PRESETS, find_config
from .placement import DeviceMap, Split, default_split
from .report import claims_json, claims_text, plan_json, plan_text

_BITS = {"int8": 8, "int4": 4}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0 if the model fits, 1 if not, 2 if the question is wrong."""
    options = _parser().parse_args(arguments)
    try:
        return _show_table(options) if options.table else _show_plan(options)
    except (ValueError, OSError) as error:  # what is wrong with the question, in a sentence
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m glm_model.plan", description=__doc__)
    add = parser.add_argument
    presets = ", ".join(PRESETS)
    add("--model", default="glm-130b", help=f"{presets}, or a folder with a config.json (default: %(default)s)")
    add("--gpus", metavar="4x24GB", help="cards and the memory of each; several kinds: 2x80GB,4x24GB")
    add("--quantize", choices=_BITS, help="pack the weights")
    add("--embeddings", "--quantize-head", action="store_true", help="pack the embedding and the head too")
    add("--context", type=int, default=2048, help="tokens of prompt and answer (default: %(default)s)")
    add("--batch", type=int, default=1, help="conversations at once (default: %(default)s)")
    add("--dtype", choices=DTYPES, default="float16", help="of what is not packed (default: %(default)s)")
    add("--tensor-parallel", type=int, metavar="N", help="ranks that share each layer (default: all GPUs, if possible)")
    add("--pipeline-parallel", type=int, metavar="N", help="stages that have some of the layers each")
    add("--device-map", choices=get_args(DeviceMap), help="one process, layers dealt out as accelerate does")
    add("--table", action="store_true", help="the hardware tables of GLM-130B and ChatGLM-6B, checked")
    add("--json", action="store_true", help="for programs; sizes in bytes")
    return parser


def _show_plan(options: argparse.Namespace) -> int:
    plan = _plan(options)
    advice = [] if plan.fits else changes(plan)
    show = _as_json(plan_json(plan, options.model, advice)) if options.json else plan_text(plan, options.model, advice)
    print(show)
    return 0 if plan.fits else 1


def _show_table(options: argparse.Namespace) -> int:
    judged = list(judge())
    print(_as_json(claims_json(judged)) if options.json else claims_text(judged))
    return 0 if all(one.agrees for one in judged) else 1


def _plan(options: argparse.Namespace) -> Plan:
    if options.gpus is None:
        raise ValueError("name the GPUs, as --gpus 4x24GB; or ask for --table")
    gpus = parse_gpus(options.gpus)
    workload = _workload(options)
    return make_plan(workload, gpus, _split(options, workload, len(gpus)))


def _workload(options: argparse.Namespace) -> Workload:
    config = find_config(options.model)
    bits, stored = _BITS.get(options.quantize, 0), config.quantization_bit or 0
    if options.embeddings and not (bits or stored):
        raise ValueError("--embeddings packs the embedding as well; add --quantize int8 or int4")
    workload = Workload(config, DTYPES[options.dtype], options.context, options.batch, stored_packed=bool(stored))
    if not stored:
        return with_quantization(workload, bits, options.embeddings) if bits else workload
    if (bits or stored) != stored or (options.embeddings and not config.quantization_embeddings):
        raise ValueError(f"{options.model} is INT{stored} already; name the float checkpoint to pack it otherwise")
    return workload


def _split(options: argparse.Namespace, workload: Workload, gpus: int) -> Split:
    tensor, pipeline = options.tensor_parallel, options.pipeline_parallel
    if options.device_map:
        if tensor or pipeline:
            raise ValueError("--device-map is one process; leave out --tensor-parallel and --pipeline-parallel")
        return Split(device_map=options.device_map)
    if tensor is None and pipeline is None:
        return default_split(workload.config, gpus)
    for name, value in (("tensor", tensor), ("pipeline", pipeline)):
        if value is not None and value < 1:
            raise ValueError(f"--{name}-parallel is {value}; it must be at least 1")
    return Split(tensor or max(1, gpus // pipeline), pipeline or max(1, gpus // tensor))


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=2)


if __name__ == "__main__":
    sys.exit(main())
