"""What `python -m glm_model.plan` predicts, beside what is measured: a model with random weights is built and run.

    python benchmarks/plan.py                                   # GLM-130B in INT4 on one GPU of 80 GB
    python benchmarks/plan.py --layers 10                       # ... a seventh of it, on a smaller one
    python benchmarks/plan.py --model chatglm-6b --quantize none
    python benchmarks/plan.py --model demo --device cpu         # the same steps where there is no GPU

The weights come into being on the device, so no memory of the host is needed. A prompt fills the whole context, then
tokens are decoded. A token takes at least as long as reading what it needs, weights and cache, takes at the speed at
which this device copies memory, measured in the same run. On a GPU the allocator's own counts are compared; on a CPU
those of torch's profiler, with the reference kernel. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import DynamicCache

from glm_model.kernels import dispatch
from glm_model.loading import DTYPES
from glm_model.model.configuration import GLMConfig
from glm_model.plan.estimate import Plan, Workload, make_plan
from glm_model.plan.forward import by_reference, on_gpu
from glm_model.plan.gpus import GPU
from glm_model.plan.models import PRESETS, preset
from glm_model.plan.placement import Split, meta_model

BITS = {"none": 0, "int8": 8, "int4": 4}
SCALE = {4: 0.02 / 4.6, 8: 0.02 / 74}  # a weight of standard deviation 0.02; integers of 4 bits have 4.6, of 8 bits 74
COPIED = 1 << 30  # bytes that tell the speed of memory
SHOWN = {"weights": 1e9, "cache": 1e9, "activations": 1e9, "peak": 1e9, "usable": 1e9, "context": 1e9, "ms": 1}


def main() -> int:
    """Build, run, print; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=PRESETS, default="glm-130b")
    parser.add_argument("--quantize", choices=BITS, default="int4")
    parser.add_argument("--embeddings", action="store_true", help="pack the embedding and the head too")
    parser.add_argument("--layers", type=int, help="fewer layers than the model has")
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=8, help="decoded, of which the median counts")
    parser.add_argument("--dtype", choices=DTYPES, default=None, help="default: float16 on a GPU, float32 on a CPU")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU; --device cpu runs the same steps, say with --model demo")
    dtype = DTYPES[options.dtype or ("float16" if options.device == "cuda" else "float32")]
    overrides = {"quantization_bit": BITS[options.quantize], "quantization_embeddings": options.embeddings}
    overrides |= {"num_layers": options.layers} if options.layers else {}
    workload = Workload(preset(options.model, **overrides), dtype, options.context, options.batch)
    results = compare(workload, torch.device(options.device), options.tokens)
    report(results, vars(options), device_name(options.device))
    return 0


def compare(workload: Workload, device: torch.device, tokens: int) -> dict[str, dict[str, float]]:
    """Predicted and measured bytes, and milliseconds of a token."""
    product = on_gpu
    if device.type == "cpu":
        dispatch._KERNELS[:], product = [dispatch.REFERENCE], by_reference  # this one is known to the planner
    plan = make_plan(workload, (GPU(1 << 50),), Split(), product)
    measured = measure(workload, device, tokens)
    predicted = prediction(plan, measured.pop("bandwidth"))
    return {"predicted": predicted, "measured": measured}


def prediction(plan: Plan, bandwidth: float) -> dict[str, float]:
    """Of the planner, and the shortest time of a token: all weights and the whole cache are read once."""
    (device,) = plan.devices
    config = plan.workload.config
    looked_up = 0  # a tied embedding is read as the head
    if not config.tie_word_embeddings:
        looked_up = config.vocab_size * config.hidden_size * plan.workload.dtype.itemsize
    read = device.weights - looked_up + device.cache
    return {
        "weights": device.weights,
        "cache": device.cache,
        "activations": device.activations,
        "peak": device.weights + device.cache + device.activations,
        "context": device.overhead,
        "ms": read / bandwidth * 1e3,
    }


@torch.no_grad()
def measure(workload: Workload, device: torch.device, tokens: int) -> dict[str, float]:
    """The same, measured; and bytes a second of memory."""
    torch.manual_seed(0)
    model = random_model(workload, device)
    weights = held_by(model, device)
    ids = prompt(workload, device)
    step(model, ids[:, -8:], None)  # workspaces, and kernels that are compiled or tuned first
    (_, cache), peak = peak_of(lambda: step(model, ids, None), device)
    cached = sum(tensor.nbytes for layer in cache.layers for tensor in (layer.keys, layer.values))
    results = {"weights": weights, "cache": cached, "activations": peak - cached, "peak": weights + peak}
    results["ms"] = milliseconds_per_token(model, ids, cache, tokens)
    if device.type == "cuda":
        free, usable = torch.cuda.mem_get_info()
        results |= {"usable": usable, "context": usable - free - torch.cuda.memory_reserved()}
    return results | {"bandwidth": bandwidth(device, next(model.parameters()))}


def random_model(workload: Workload, device: torch.device) -> Any:
    """The model with tied head and embedding, random on the device from the start."""
    model = meta_model(workload.config, workload.dtype).to_empty(device=device)
    model.tie_weights()
    for name, parameter in model.named_parameters():
        fill(name, parameter.data, workload.config)
    rotary = model.model.rotary_emb  # its table is no parameter, and was left empty
    model.model.rotary_emb = type(rotary)(workload.config).to(device)
    return model


def fill(name: str, values: Tensor, config: GLMConfig) -> None:
    """Random integers, one scale for all, and LayerNorms that do nothing."""
    if values.dtype == torch.int8:
        values.random_(-127, 128)
    elif name.endswith("weight_scale"):
        values.fill_(SCALE[config.quantization_bit or 8])
    elif values.ndim == 2:
        values.normal_(std=0.02)
    else:
        values.fill_(1.0 if name.endswith("norm.weight") else 0.0)


def held_by(model: Any, device: torch.device) -> int:
    """Bytes: on a GPU those its allocator has given out, on a CPU those of the tensors."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.memory_allocated()
    return sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])


def prompt(workload: Workload, device: torch.device) -> Tensor:
    """Random ids, at the end of every row [gMASK] and <sop>."""
    config = workload.config
    ids = torch.randint(4, config.gmask_token_id - 1, (workload.batch, workload.context), device=device)
    ids[:, -2:] = torch.tensor([config.gmask_token_id, config.bos_token_id], device=device)[-workload.context :]
    return ids


def step(model: Any, ids: Tensor, cache: Any) -> tuple[Tensor, Any]:
    """One forward pass over what the cache lacks; the last token's most likely successor, and the cache."""
    new = ids.shape[1] if cache is None else 1
    cache = DynamicCache() if cache is None else cache  # as on a GPU; a CPU has another one
    inputs = model.prepare_inputs_for_generation(ids, next_sequence_length=new, cache=cache, use_cache=True)
    output = model(**{**inputs, "logits_to_keep": 1})
    return output.logits[:, -1:].argmax(-1), cache


def milliseconds_per_token(model: Any, ids: Tensor, cache: Any, tokens: int) -> float:
    """Median of some steps after the prompt."""
    taken = []
    for _ in range(tokens):
        ids = torch.cat([ids, ids[:, -1:].clamp(max=3)], dim=1)  # any token but a mask
        start = clock(ids.device)
        step(model, ids, cache)
        taken.append(clock(ids.device) - start)
    return statistics.median(taken) * 1e3


def peak_of(run: Callable[[], Any], device: torch.device) -> tuple[Any, int]:
    """The result, and the most bytes that were allocated on top of what was there before."""
    if device.type == "cpu":
        return peak_of_profile(run)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = run()
    torch.cuda.synchronize()
    return result, torch.cuda.max_memory_allocated() - before


def peak_of_profile(run: Callable[[], Any]) -> tuple[Any, int]:
    """As :func:`peak_of`, from every call of torch's CPU allocator."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    live = peak = 0
    for event in sorted((one for one in events if one.get("name") == "[memory]"), key=lambda one: one["ts"]):
        live += event["args"]["Bytes"]
        peak = max(peak, live)
    return result, peak


def bandwidth(device: torch.device, source: Tensor) -> float:
    """Bytes a second: the best of some copies, each of which reads and writes."""
    source = source.data.flatten()[: COPIED // source.element_size()]
    target = torch.empty_like(source)
    taken = []
    for _ in range(5):
        start = clock(device)
        target.copy_(source)
        taken.append(clock(device) - start)
    return 2 * source.nbytes / min(taken)


def clock(device: torch.device) -> float:
    """Seconds, once the device has done all it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def device_name(kind: str) -> str:
    """For people."""
    return torch.cuda.get_device_name() if kind == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def report(results: dict[str, dict[str, float]], options: dict[str, Any], device: str) -> None:
    """The table, then the JSON line."""
    predicted, measured = results["predicted"], results["measured"]
    shape = f"context {options['context']}, batch {options['batch']}"
    print(f"{options['model']}, {options['quantize']}, {shape}: {device}")
    print(f"{'':<24}{'predicted':>12}{'measured':>12}{'ratio':>9}")
    for name, unit in SHOWN.items():
        ends = [values[name] / unit if name in values else None for values in (predicted, measured)]
        ratio = f"{ends[1] / ends[0]:9.3f}" if ends[0] and ends[1] else ""
        label = f"{name} (GB)" if unit != 1 else "token (ms; at least)"
        print(f"{label:<24}" + "".join(f"{end:12.3f}" if end is not None else f"{'-':>12}" for end in ends) + ratio)
    print(json.dumps({"device": device, "torch": torch.__version__, **options, **results}))


if __name__ == "__main__":
    sys.exit(main())
