"""ChatGLM-6B's shape in INT4 with random weights on a CPU: prefill, decode, memory, next to the read bandwidth.

    python benchmarks/decode_6b.py
    python benchmarks/decode_6b.py --precision exact fast --contexts 64 512
    python benchmarks/decode_6b.py --head float32      # head and embedding not packed, as in chatglm-6b-int4

Random integers take as long as trained ones. The limit of decoding is the time in which memory can be read once over
all packed weights but the embedding's; it is measured before each context. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor, nn

from benchmarks.quantized_matmul import bandwidth_test, cpu_name
from glm_model import ChatGLMConfig, ChatGLMForCausalLM
from glm_model.kernels.dispatch import describe
from glm_model.model.transformers_names import cache_of
from glm_model.quantization.linear import QuantizedLinear

SCALE = 0.02 / 4.6  # a weight of standard deviation 0.02, as a trained one has; integers from -8 to 7 have 4.6


def main() -> int:
    """Measure, print, return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, choices=(4, 8), default=4)
    parser.add_argument("--precision", nargs="+", choices=("fast", "exact"), default=["fast"])
    parser.add_argument("--contexts", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--tokens", type=int, default=16, help="decoded, of which the median counts")
    parser.add_argument("--head", choices=("packed", "float32"), default="packed")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = random_model(arguments.bits, arguments.head == "packed")
    # Of what is there anyway, so that the peak memory is the model's: far more than a cache holds.
    largest = max(model.parameters(), key=lambda parameter: parameter.nbytes)
    read = bandwidth_test(largest.data.flatten().view(torch.int8))
    results = []
    for precision in arguments.precision:
        for module in model.modules():
            if isinstance(module, QuantizedLinear):
                module.precision = precision
        results += [
            {"precision": precision, "context": context, **measure(model, context, arguments.tokens, read())}
            for context in arguments.contexts
        ]
    report(results, model, arguments)
    return 0


def random_model(bits: int, packed_head: bool) -> Any:
    """The published shape, in float32 but for its packed weights; tied head and embedding."""
    config = ChatGLMConfig.preset("chatglm-6b", quantization_bit=bits, quantization_embeddings=packed_head)
    with torch.device("meta"):
        model = ChatGLMForCausalLM(config)
    model = model.to_empty(device="cpu")
    model.tie_weights()
    for name, parameter in model.named_parameters():
        fill(name, parameter.data)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its table is no parameter, and was left empty
    return model.eval()


def fill(name: str, values: Tensor) -> None:
    """Random integers, one scale for all, and LayerNorms that do nothing."""
    if values.dtype == torch.int8:
        values.view(torch.int64).random_()
    elif name.endswith("weight_scale"):
        values.fill_(SCALE)
    elif values.ndim == 2:
        values.normal_(std=0.02)
    else:
        values.fill_(1.0 if name.endswith("norm.weight") else 0.0)


@torch.inference_mode()
def measure(model: Any, context: int, tokens: int, bandwidth: float) -> dict[str, float]:
    """Seconds of a prompt and of the tokens after it."""
    ids = torch.randint(1000, 100_000, (1, context))
    ids[0, -2:] = torch.tensor([model.config.gmask_token_id, model.config.bos_token_id])
    step(model, ids[:, -16:], None)  # pages and threads are new
    start = time.perf_counter()
    logits, cache = step(model, ids, None)
    prefill = time.perf_counter() - start
    taken = []
    for _ in range(tokens):
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
        start = time.perf_counter()
        logits, cache = step(model, ids, cache)
        taken.append(time.perf_counter() - start)
    decode = statistics.median(taken)
    limit = read_per_token(model) / bandwidth / 1e9
    return {
        "prefill_tokens_per_s": round(context / prefill, 1),
        "decode_ms": round(decode * 1e3, 1),
        "limit_ms": round(limit * 1e3, 1),
        "share_of_limit": round(limit / decode, 3),
        "read_GBps": round(bandwidth, 1),
    }


def step(model: Any, ids: Tensor, cache: Any) -> tuple[Tensor, Any]:
    """One forward pass over what the cache lacks; logits of the last token, and the cache."""
    new = ids.shape[1] if cache is None else 1
    inputs = model.prepare_inputs_for_generation(ids, next_sequence_length=new, cache=cache, use_cache=True)
    output = model(**{"logits_to_keep": 1, **inputs})
    return output.logits, cache_of(output)


def read_per_token(model: Any) -> int:
    """Bytes of the weights that every token needs: those of all linear layers."""
    linear = (module for module in model.modules() if isinstance(module, QuantizedLinear | nn.Linear))
    return sum(module.weight.nbytes for module in linear)


def report(results: list[dict[str, Any]], model: Any, arguments: argparse.Namespace) -> None:
    """The table, then the JSON line."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # GB
    size = sum(parameter.nbytes for parameter in model.parameters()) / 1e9
    print(f"{cpu_name()}, {arguments.threads} threads, INT{arguments.bits}, head {arguments.head}")
    print(describe(arguments.precision[0]))
    print(f"parameters {size:.2f} GB, peak memory {peak:.2f} GB")
    names = list(results[0])
    print("  ".join(names))
    for result in results:
        print("  ".join(f"{result[name]!s:>{len(name)}}" for name in names))
    line = {"benchmark": "decode_6b", "cpu": cpu_name(), **vars(arguments), "parameters_GB": size, "peak_GB": peak}
    print(json.dumps({**line, "results": results}))


if __name__ == "__main__":
    sys.exit(main())
