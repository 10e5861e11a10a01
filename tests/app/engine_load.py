"""A long day of an engine: many users, many requests, many who leave; run on demand, as it takes minutes.

    python -m tests.app.engine_load --users 50 --seconds 300 --requests 2000 --random 500 --cancels 200

It prints what was counted as lines of JSON, and ends with status 1 and a sentence if something is not as it should be.

- users: each asks again and again for a time. Half of the questions hold a number that nobody else's holds and are
  answered with the question itself, in real steps of the model; the others are answered as the model answers alone.
- requests: memory, threads and open files stay what they were.
- random: requests of random lengths, arrivals, ends and cancellations, some of them equal, against `generate` alone.
- cancels: so many in each state. The row is free within two turns, and the others' answers are those of one alone.
"""

import argparse
import itertools
import json
import os
import random
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from app.serving.engine import Engine
from app.serving.jobs import encode
from app.serving.reply import Event, Finished, Reply
from glm_model.generation.row_passes import token_bytes
from glm_model.generation.stream import end_token_ids, write_text
from glm_model.loading import DEMO_MODEL, load
from tests.app.users import Numbers, Told, Turns, greedy, has_begun, question, sent, text_of
from tests.golden import test_glm130b
from tests.golden.data import FP32
from tests.golden.models import load as load_golden

ECHO = "Say this number: "
QUESTIONS = ["hello", "Who are you?", "What can you do?", "你好", "Tell me a story.", "你会说中文吗？"]
BESIDES = 600e6
"""Bytes that a process may take besides weights and cache."""


class Echo:
    """Chooses the tokens of a text, whatever the scores are."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids = iter(ids)

    def __call__(self, input_ids: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        assert torch.isfinite(logits).all()
        return torch.tensor([next(self._ids)]), logits


def write(model: Any, tokenizer: Any, prompt: list[int], options: Any, should_stop: Any) -> Any:
    """The writer of an engine: of an echo, if that is asked for."""
    text = tokenizer.decode_exact(prompt)
    if ECHO not in text:
        return write_text(model, tokenizer, prompt, options, should_stop)
    ids = [*tokenizer.encode_text(text[text.rindex(ECHO) :].split("[gMASK]")[0]), end_token_ids(model)[0]]
    return write_text(model, tokenizer, prompt, options, should_stop, Echo(ids))


class Checked:
    """Counts, and the first thing that was not as it should be."""

    def __init__(self, **counts: Any) -> None:
        self.counts: dict[str, Any] = counts
        self.wrong = ""
        self._lock = threading.Lock()

    def add(self, name: str, count: int = 1) -> None:
        with self._lock:
            self.counts[name] = self.counts.get(name, 0) + count

    def require(self, holds: bool, sentence: str) -> None:
        if not holds:
            self.add("wrong")
            self.wrong = self.wrong or sentence


def demo_engine() -> tuple[Engine, int]:
    """An engine with the demo model, and the bytes of its weights and its cache."""
    model, tokenizer = load(DEMO_MODEL, device="cpu")
    tokens = 8 * model.config.max_sequence_length
    weights = sum(parameter.nbytes for parameter in model.parameters())
    engine = Engine(model, tokenizer, most_rows=32, queue_size=1000, cache_tokens=tokens, write_text=write)
    return engine, weights + tokens * token_bytes(model)


def ask(engine: Engine, text: str, owner: int) -> list[Event]:
    return list(engine.submit(question(text), greedy(max_length=128), owner=owner))


def visits(count: int, seconds: float) -> Checked:
    """Let users ask for a time."""
    engine, bytes_needed = demo_engine()
    told = {
        text: Told.alone(engine._model, engine._tokenizer, question(text), greedy(max_length=128)) for text in QUESTIONS
    }
    checked, numbers = Checked(phase="users", users=count, seconds=seconds), itertools.count(10_000)
    end = time.monotonic() + seconds
    most_rss = 0

    def visit(user: int) -> None:
        draw = random.Random(user)
        while time.monotonic() < end:
            echo = f"{ECHO}{next(numbers)} for {user}"
            text = echo if draw.random() < 0.5 else draw.choice(QUESTIONS)
            events = ask(engine, text, user)
            is_whole = isinstance(events[-1], Finished) and events[-1].reason == "stop"
            checked.require(is_whole, f"the answer to {text!r} was cut or lost: {events[-1]}")
            wanted = echo if text is echo else told[text].text
            checked.require(text_of(events) == wanted, f"{text!r} got {text_of(events)!r} instead of {wanted!r}")
            checked.add("echoes" if text is echo else "answers")

    users = [threading.Thread(target=visit, args=(user,)) for user in range(count)]
    for user in users:
        user.start()
    for user in users:
        while user.is_alive():
            user.join(1)
            most_rss = max(most_rss, psutil.Process().memory_info().rss)
    state = engine.state
    engine.close()
    total = checked.counts.get("echoes", 0) + checked.counts.get("answers", 0)
    checked.require((state.answered, state.failed) == (total, 0), f"the engine has counted {state}, not {total}")
    checked.counts |= {"MB": most_rss // 10**6, "MB allowed": int(bytes_needed + BESIDES) // 10**6}
    checked.require(most_rss < bytes_needed + BESIDES, f"{most_rss / 1e6:.0f} MB of memory were taken")
    return checked


def soak(count: int) -> Checked:
    """Look at memory, threads and files while requests come and go."""
    engine, _ = demo_engine()
    process, checked = psutil.Process(), Checked(phase="requests", requests=count)
    places, sizes = list[float](), list[float]()
    before: tuple[int, int] | None = None
    waiting: list[Reply] = []
    draw = random.Random(1)
    for place in range(count):
        text = f"{ECHO}{place}" if draw.random() < 0.5 else draw.choice(QUESTIONS)
        waiting.append(engine.submit(question(text), greedy(max_length=draw.randint(48, 128)), owner=place % 7))
        if draw.random() < 0.1:
            waiting[-1].cancel()
        if len(waiting) >= 32:
            checked.require(isinstance(list(waiting.pop(0))[-1], Finished), "a request failed")
        if place >= count // 2:  # warm by now
            before = before or (process.num_threads(), process.num_fds())
            places.append(place)
            sizes.append(process.memory_info().rss)
    for reply in waiting:
        checked.require(isinstance(list(reply)[-1], Finished), "a request failed")
    after = process.num_threads(), process.num_fds()
    engine.close()
    centred = torch.tensor(places, dtype=torch.float64) - sum(places) / len(places)
    slope = float(centred @ torch.tensor(sizes, dtype=torch.float64) / (centred @ centred))
    checked.counts |= {"bytes a request": round(slope), "threads and files": [before, after]}
    if count >= 1000:  # a few are not enough to become warm
        checked.require(slope < 1024, f"memory grows by {slope:.0f} bytes a request")
        checked.require(before == after, f"threads and files: {before} have become {after}")
    return checked


def compare(count: int, name: str, model: Any) -> Checked:
    """Compare answers to requests that come and go at random with those of `generate`."""
    checked, draw = Checked(phase="random", model=name), random.Random(2)
    plain = end_token_ids(model)
    requests = []
    for _ in range(count):
        # Few different prompts, so that many are equal.
        text = " ".join(map(str, random.Random(draw.randint(0, count // 3)).choices(range(10, 60), k=30)))
        requests.append((" ".join(text.split()[: draw.randint(1, 30)]), draw.randint(48, 90), draw.random() < 0.15))
    for ends in (plain, [*plain, *range(10, 200, 7)]):
        model.generation_config.eos_token_id = ends
        some, requests = (requests[: count // 2], requests[count // 2 :]) if ends is plain else (requests, [])
        with Engine(model, Numbers(model), most_rows=8, queue_size=count, cache_tokens=800) as engine:
            replies = []
            for text, longest, is_cancelled in some:
                replies.append(engine.submit(question(text), greedy(max_length=longest), owner=draw.choice("abc")))
                time.sleep(draw.random() * 0.01)
                if is_cancelled:
                    draw.choice(replies).cancel()
            told = [list(reply) for reply in replies]
        for (text, longest, _), events in zip(some, told, strict=True):
            wanted, end = generated(model, text, longest, ends), events[-1]
            assert isinstance(end, Finished), end
            found = text_of(events)
            is_right = wanted.startswith(found) if end.reason == "cancelled" else found == wanted
            checked.require(is_right, f"{text!r} got {found!r} instead of {wanted!r}")
            checked.add(end.reason)
    model.generation_config.eos_token_id = plain[0] if len(plain) == 1 else plain
    return checked


def generated(model: Any, text: str, longest: int, ends: list[int]) -> str:
    prompt = encode(Numbers(model), question(text))
    ids = model.generate(torch.tensor([prompt]), max_length=longest, do_sample=False, eos_token_id=ends)[0].tolist()
    return "".join(f"{token}," for token in ids[len(prompt) :] if token not in ends)


def cancel(count: int, state: str) -> Checked:
    """Cancel requests in a state, beside three others."""
    model, checked = load_golden(FP32), Checked(phase="cancels", state=state)
    longest = 200
    company = [question(" ".join(map(str, range(10 + seed, 20 + 2 * seed)))) for seed in range(3)]
    told = [Told.alone(model, Numbers(model), messages, greedy(max_length=longest)) for messages in company]
    draw = random.Random(3)
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr("glm_model.generation.batch.PROMPT_SHARE", 0.0)  # a layer in each turn
        turns = Turns(patch)
        engine = stack.enter_context(Engine(model, Numbers(model), most_rows=4, queue_size=100, cache_tokens=10_000))
        stack.callback(turns.open)
        replies: list[Reply] = []
        while checked.counts.get("cancelled", 0) < count:
            if engine.state.rows == 0 and not engine.state.waiting:
                replies += [engine.submit(messages, greedy(max_length=longest)) for messages in company]
                if len(replies) == 3:
                    turns.start()
                turns.take(20, engine)
            blocker = engine.submit(question("17 18"), greedy(max_length=longest)) if state == "waiting" else None
            if blocker is not None:
                turns.take(1, engine)
            words = draw.choices(range(10, 60), k=draw.randint(5, 40))
            stopped = engine.submit(question(" ".join(map(str, words))), greedy(max_length=longest))
            turns.take(draw.randint(8, 14) if state == "decoding" else 2, engine)
            before, events = engine.state, sent(stopped)
            was = "waiting" if not has_begun(events) else "decoding" if text_of(events) else "prompt"
            stopped.cancel()
            turns.take(2, engine)
            events += sent(stopped)
            if was == state and before.rows == 4:
                end = events[-1] if events else None
                is_over = isinstance(end, Finished) and end.reason in ("cancelled", "stop")
                is_free = not any(job.reply is stopped for job in (*engine._running, *engine._waiting))
                checked.require(is_over and is_free, f"{state}: {end}, {engine.state}")
                checked.add("cancelled")
            if blocker is not None:
                blocker.cancel()
                turns.take(2, engine)
        turns.open()
        found = [Told.of(list(reply)) for reply in replies]
    for place, each in enumerate(found):
        checked.require(each == told[place % 3], f"another user got {each}")
    checked.counts["others"] = len(found)
    return checked


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return 1 if something was not as it should be."""
    parser = argparse.ArgumentParser(description="Put an engine under load.")
    for name in ("users", "requests", "random", "cancels"):
        parser.add_argument(f"--{name}", type=int, default=0, metavar="N")
    parser.add_argument("--seconds", type=float, default=300, help="how long the users ask")
    options = parser.parse_args(arguments)
    wrong = ""
    for checked in _phases(options):
        print(json.dumps(checked.counts), flush=True)
        wrong = wrong or checked.wrong
    if wrong:
        print(f"engine_load: {wrong}", flush=True)
    return int(bool(wrong))


def _phases(options: argparse.Namespace) -> Any:
    if options.users:
        yield visits(options.users, options.seconds)
    if options.requests:
        yield soak(options.requests)
    if options.random:
        yield compare(options.random // 2, "ChatGLM", load_golden(FP32))
        yield compare(options.random // 2, "GLM-130B", test_glm130b.load())
    if options.cancels:
        for state in ("waiting", "prompt", "decoding"):
            yield cancel(options.cancels, state)


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.nice(5)
    raise SystemExit(main())
