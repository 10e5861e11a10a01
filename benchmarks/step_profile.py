"""Where a greedy decoding step of the 6B-shaped decoder goes: linear layers, attention, and all the rest.

The model has the full shape of ChatGLM-6B (28 layers, hidden 4096, vocabulary 130528) but one set of random layer
weights that all layers share: a layer's weights are far larger than any CPU cache, so each layer still reads them from
memory, and the machine needs 3 GB instead of 25. A step is everything between two tokens of the loop that the
front-ends run: forward, score processors, argmax, stopping criteria.

    python benchmarks/step_profile.py --threads 4
    python benchmarks/step_profile.py --dtype bfloat16 --context 512
    python benchmarks/step_profile.py --device cuda --dtype float16

Prints a table, then one JSON line. "Attention" is the attention module without its linear layers (rotary angles,
cache, scores); "attention kernel" is the scaled dot product alone, for a stricter reading.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor, nn

from glm_model import ChatGLMConfig, ChatGLMForCausalLM
from glm_model.generation.transformers_hooks import generate_steps
from glm_model.model.attention import GLMAttention

LIMIT = 0.03  # the wanted share of a step outside linear layers and attention
LINEAR, ATTENTION, KERNEL = "linear layers", "attention", "attention kernel"


def main() -> int:
    """Measure, print, and return 0 if the rest of a step stays under LIMIT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=64, help="tokens of the prompt")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = shared_weights_model(torch.device(arguments.device), getattr(torch, arguments.dtype))
    return report(profile(model, arguments.context, arguments.steps), arguments)


def shared_weights_model(device: torch.device, dtype: torch.dtype) -> ChatGLMForCausalLM:
    """ChatGLM-6B whose layers share one set of random weights."""
    with torch.device("meta"):
        model = ChatGLMForCausalLM(ChatGLMConfig.preset("chatglm-6b"))
    torch.manual_seed(0)
    weights: dict[str, Tensor] = {}
    state = {}
    for key, value in model.state_dict().items():
        shared = ".".join("N" if part.isdigit() else part for part in key.split("."))
        shared = shared.replace("lm_head", "model.embed_tokens")  # tied
        if shared not in weights:
            weights[shared] = torch.empty(value.shape, dtype=dtype, device=device).uniform_(-0.02, 0.02)
        state[key] = weights[shared]
    model.load_state_dict(state, assign=True)
    rotary = model.model.rotary_emb
    rotary.inv_freq = rotary.inverse_frequencies().to(device)
    return model.eval()


class Clock:
    """Adds up the seconds spent in named functions; time inside a nested one is not counted twice."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._wait = wait
        self._inner = [0.0]  # seconds of the timed calls within each open one

    def now(self) -> float:
        """The time, once the device has done all that it was told."""
        self._wait()
        return time.perf_counter()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, its own time added to `name`."""

        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            start = self.now()
            try:
                return function(*args, **kwargs)
            finally:
                took = self.now() - start
                self.seconds[name] += took - self._inner.pop()
                self._inner[-1] += took

        return wrapper


@contextmanager
def watching(clock: Clock) -> Iterator[None]:
    """Time every linear layer, attention module and attention kernel while the block runs."""
    places = [
        (nn.Linear, "forward", LINEAR),
        (GLMAttention, "forward", ATTENTION),
        (nn.functional, "scaled_dot_product_attention", KERNEL),
    ]
    originals = [getattr(owner, attribute) for owner, attribute, _ in places]
    for (owner, attribute, name), original in zip(places, originals, strict=True):
        setattr(owner, attribute, clock.timed(name, original))
    try:
        yield
    finally:
        for (owner, attribute, _), original in zip(places, originals, strict=True):
            setattr(owner, attribute, original)


def profile(model: ChatGLMForCausalLM, context: int, steps: int) -> list[dict[str, float]]:
    """Seconds of each part, and of the whole, for every decoding step after the prompt's."""
    config = model.config
    config.eos_token_id = model.generation_config.eos_token_id = config.vocab_size  # never ends
    prompt = torch.randint(100, 10_000, (1, context), device=model.device)
    prompt[0, -2], prompt[0, -1] = config.gmask_token_id, config.bos_token_id
    clock = Clock(torch.cuda.synchronize if model.device.type == "cuda" else lambda: None)
    measured = []
    with watching(clock):
        stream = generate_steps(model, prompt, max_length=context + steps + 2, do_sample=False)
        next(stream)  # the prompt
        next(stream)  # warms up
        for _ in range(steps):
            clock.seconds.clear()
            start = clock.now()
            next(stream)
            measured.append({"step": clock.now() - start, **clock.seconds})
    return measured


def report(measured: list[dict[str, float]], arguments: argparse.Namespace) -> int:
    """Print the table and the JSON line; returns the exit code."""
    middle = {name: statistics.median(step[name] for step in measured) for name in measured[0]}
    outside = [1 - (step[LINEAR] + step[ATTENTION] + step[KERNEL]) / step["step"] for step in measured]
    strict = [1 - (step[LINEAR] + step[KERNEL]) / step["step"] for step in measured]
    share, strict_share = statistics.median(outside), statistics.median(strict)
    rows = [(name, middle[name], middle[name] / middle["step"]) for name in (LINEAR, ATTENTION, KERNEL)]
    rows += [
        ("outside linear layers and attention", share * middle["step"], share),
        ("outside linear layers and the attention kernel", strict_share * middle["step"], strict_share),
        ("whole step", middle["step"], 1.0),
    ]
    print(f"{'part':<48}{'ms':>10}{'share':>9}")
    for name, seconds, part in rows:
        print(f"{name:<48}{1000 * seconds:>10.2f}{part:>9.2%}")
    result = {
        "benchmark": "step_profile",
        "device": arguments.device,
        "dtype": arguments.dtype,
        "threads": arguments.threads,
        "context": arguments.context,
        "steps": len(measured),
        "milliseconds": {name: round(1000 * seconds, 3) for name, seconds in middle.items()},
        "share_outside_linear_and_attention": round(share, 5),
        "share_outside_linear_and_attention_kernel": round(strict_share, 5),
    }
    print(json.dumps(result))
    return 0 if share < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
