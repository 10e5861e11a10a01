"""What the streams cost on top of the model.

Measures tokens per second of a bare loop over the model's forward with its cache (greedy argmax), of `stream_chat`, of
`stream_text`, and of the engine that the front-ends use. All run the same model on the same prompt for the same number
of tokens, in turns; a ratio is taken within each round and the median over the rounds is reported, so that a machine
that slows down slows all of them.

    python benchmarks/overhead.py                       # models/demo
    python benchmarks/overhead.py --model FOLDER --threads 2
    python benchmarks/overhead.py --model FOLDER --random-weights   # the demo model's shape, FOLDER's vocabulary

Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from app.serving.conversation import Message
from app.serving.engine import Engine
from app.serving.reply import Finished, Reply
from glm_model import ChatGLMConfig, ChatGLMForCausalLM
from glm_model.generation.stream import stream_text
from glm_model.loading import DEMO_MODEL, load
from glm_model.model.transformers_names import cache_of
from glm_model.options import SamplingOptions
from glm_model.text.tokenizer import ChatGLMTokenizer

QUESTION = "What is 17 + 25? 你好，请告诉我。"
LIMIT = 0.85  # the wanted share of the bare loop's speed
DEMO_SHAPE = {"hidden_size": 256, "num_layers": 4, "num_attention_heads": 8, "inner_hidden_size": 1024}


def main() -> int:
    """Measure, print, and return 0 if every stream keeps at least LIMIT of the bare loop's speed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=DEMO_MODEL)
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument("--tokens", type=int, default=200, help="tokens of each answer")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, tokenizer = random_model(arguments.model) if arguments.random_weights else load(arguments.model)
    never_end(model)
    seconds = measure(model, tokenizer, arguments.tokens, arguments.rounds)
    return report(seconds, arguments, model)


def random_model(folder: Path) -> tuple[Any, Any]:
    """A model of the demo model's shape with random weights, for the vocabulary in `folder`."""
    config = ChatGLMConfig.from_pretrained(folder)
    for name, value in DEMO_SHAPE.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    return ChatGLMForCausalLM(config).eval(), ChatGLMTokenizer.from_pretrained(folder)


def never_end(model: Any) -> None:
    """Let every answer run to its full length, whatever the model says: no id is the end token."""
    model.config.eos_token_id = model.generation_config.eos_token_id = model.config.vocab_size


def measure(model: Any, tokenizer: Any, tokens: int, rounds: int) -> dict[str, list[float]]:
    """Seconds per answer of every way, one entry per round."""
    with Engine(model, tokenizer) as engine:
        ways = ways_to_answer(model, tokenizer, engine, tokens)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for round_number in range(rounds + 2):  # the first two warm up
            for name, answer in ways.items():
                start = time.perf_counter()
                made = answer()
                took = time.perf_counter() - start
                assert made == tokens, f"{name} made {made} tokens, not {tokens}"
                if round_number >= 2:
                    seconds[name].append(took)
    return seconds


def ways_to_answer(model: Any, tokenizer: Any, engine: Engine, tokens: int) -> dict[str, Callable[[], int]]:
    """Each function makes one whole answer, prompt included, and returns its number of tokens."""
    messages = [Message(role="user", content=QUESTION)]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    sampling = SamplingOptions(max_length=len(prompt) + tokens, temperature=0)

    def bare_loop() -> int:
        return greedy(model, prompt, tokens)

    def stream_chat() -> int:
        yields = 0
        for _ in model.stream_chat(tokenizer, QUESTION, [], max_length=sampling.max_length, do_sample=False):
            yields += 1
        return yields + 1  # as published, the last token is computed but not yielded

    def plain_stream() -> int:
        return [chunk.token_count for chunk in stream_text(model, tokenizer, prompt, sampling)][-1]

    def through_engine() -> int:
        return answer_tokens(list(engine.submit(messages, sampling)))

    def through_engine_async() -> int:
        return answer_tokens(asyncio.run(read(engine.submit(messages, sampling))))

    return {
        "bare loop": bare_loop,
        "stream_chat": stream_chat,
        "stream_text": plain_stream,
        "engine": through_engine,
        "engine, async reader": through_engine_async,
    }


@torch.inference_mode()
def greedy(model: Any, prompt: list[int], tokens: int) -> int:
    """The least that any decoding has to do: forward, argmax, forward with the cache."""
    positions = model.derive_position_ids(torch.tensor([prompt]), length=len(prompt) + tokens)
    ids = torch.tensor([prompt])
    outputs = model(ids, use_cache=True, logits_to_keep=1)
    made = []
    for place in range(len(prompt), len(prompt) + tokens):
        ids = outputs.logits[:, -1:].argmax(dim=-1)
        made.append(int(ids))
        if len(made) < tokens:
            outputs = model(
                ids,
                position_ids=positions[..., place : place + 1],
                cache=cache_of(outputs),
                use_cache=True,
            )
    return len(made)


async def read(reply: Reply) -> list[Any]:
    """All events, as the web front-end takes them."""
    return [event async for event in reply]


def answer_tokens(events: list[Any]) -> int:
    """What the last event counts."""
    assert isinstance(events[-1], Finished), events[-1]
    return events[-1].answer_tokens


def report(seconds: dict[str, list[float]], arguments: argparse.Namespace, model: Any) -> int:
    """Print the table and the JSON line; returns the exit code."""
    bare = seconds["bare loop"]
    speeds = {name: arguments.tokens / statistics.median(times) for name, times in seconds.items()}
    ratios = {
        name: statistics.median(b / t for b, t in zip(bare, times, strict=True)) for name, times in seconds.items()
    }
    print(f"{'way':<22}{'tokens/s':>10}{'of the bare loop':>20}")
    for name in seconds:
        print(f"{name:<22}{speeds[name]:>10.0f}{ratios[name]:>19.1%}")
    result = {
        "benchmark": "overhead",
        "model": "random weights" if arguments.random_weights else arguments.model.name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "threads": arguments.threads,
        "answer_tokens": arguments.tokens,
        "rounds": arguments.rounds,
        "tokens_per_second": {name: round(speed, 1) for name, speed in speeds.items()},
        "ratio_to_bare_loop": {name: round(ratio, 3) for name, ratio in ratios.items()},
    }
    print(json.dumps(result))
    return 0 if min(ratios.values()) >= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
