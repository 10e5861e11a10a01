"""One of the processes of a job that serves the demo model: rank 0 takes orders from standard input, the rest follow.

    python -m tests.parallel.chat TENSOR PIPELINE [PATIENCE]

PATIENCE: seconds after which a rank that does not answer the roll call counts as lost.
An order is a line of JSON, and so is each answer; "ready" comes first.
"""

import gc
import json
import sys
from datetime import timedelta
from typing import Any

import torch

from app.serving.engine import Engine
from app.serving.reply import Filled, Text
from glm_model import DEMO_MODEL
from glm_model.blank_filling import FillOptions, fill_blanks
from glm_model.generation.stream import stream_text
from glm_model.loading import lead_or_follow, load
from glm_model.options import SamplingOptions
from glm_model.parallel import watch


def main(tensor: int, pipeline: int, patience: int = 0) -> None:
    torch.set_num_threads(1)
    gc.freeze()  # the libraries are no garbage; looking for some takes a second at the end
    if patience:
        watch.PATIENCE = timedelta(seconds=patience)
    model, tokenizer = load(DEMO_MODEL, device="cpu", tensor_parallel=tensor, pipeline_parallel=pipeline)
    if not lead_or_follow(model, tokenizer):
        print("followed to the end", flush=True)
        return
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(obey(model, tokenizer, json.loads(line))), flush=True)


def obey(model: Any, tokenizer: Any, order: dict[str, Any]) -> Any:
    """Do what an order says; a refusal is an answer too."""
    try:
        return _obey(model, tokenizer, **order)
    except ValueError as error:
        return {"refused": str(error)}


def _ask_at_once(model: Any, tokenizer: Any, orders: list[dict[str, Any]]) -> list[str]:
    """The answers of an engine that gets all orders, chats and fills, at the same time."""
    with Engine(model, tokenizer, cache_tokens=10_000) as engine:
        replies = [
            engine.fill(order["text"], FillOptions(**_settings(order)))
            if order["kind"] == "fill"
            else engine.submit([{"role": "user", "content": order["text"]}], SamplingOptions(**_settings(order)))
            for order in orders
        ]
        answers = []
        for reply in replies:
            events = list(reply)
            filled = [event.result.texts[0].text for event in events if isinstance(event, Filled)]
            answers.append("".join([*filled, *(event.delta for event in events if isinstance(event, Text))]))
    return answers


def _settings(order: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in order.items() if name not in ("kind", "text")}


def _obey(model: Any, tokenizer: Any, kind: str, text: str = "", leave_after: int = 0, **options: Any) -> Any:
    if kind == "many":
        return _ask_at_once(model, tokenizer, options["orders"])
    if kind == "fill":
        return fill_blanks(model, tokenizer, text, FillOptions(**options)).texts[0].text
    messages = [{"role": "user", "content": text}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=False)
    should_stop = iter([False] * 3 + [True] * 99).__next__ if kind == "cancel" else lambda: False
    chunks = stream_text(model, tokenizer, prompt, SamplingOptions(**options), should_stop)
    answer = ""
    for count, chunk in enumerate(chunks, start=1):
        answer += chunk.text
        if count == leave_after:
            break
    chunks.close()  # type: ignore[attr-defined]
    return answer


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
