"""A model, tokenizer and stream made of plain Python, for tests of the front-ends: no weights, no waiting.

One token is one character. The answer comes from a function of the last message, at a speed the test sets,
and with a `gate` token by token as the test allows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from app.conversation import Message
from app.engine import Engine

SEPARATOR = "\x1e"  # stands between messages in the fake prompt


@dataclass(frozen=True)
class Sampling:
    """Stands in for glm_model.generation.SamplingOptions where a test needs no torch."""

    max_length: int = 2048
    temperature: float = 0.95
    top_p: float = 0.7
    top_k: int = 50
    seed: int | None = None


@dataclass(frozen=True)
class Chunk:
    """Stands in for glm_model.generation.TextChunk."""

    text: str
    token_count: int
    finish_reason: str | None = None


class FakeModel:
    """Has what the engine asks a model about itself."""

    def __init__(self, *, is_demo: bool = True, name: str = "fake-glm", context_length: int = 2048) -> None:
        self.config = SimpleNamespace(_name_or_path=name, is_demo=is_demo, max_sequence_length=context_length)
        self.device = "cpu"

    def num_parameters(self) -> int:
        return 1234


@dataclass
class FakeTokenizer:
    """A token per character; counts how many tokens it was asked to make."""

    tokens_made: int = 0
    calls: int = 0

    def apply_chat_template(self, messages: list[Message], **_: Any) -> list[int]:
        ids = [ord(character) for character in SEPARATOR.join(message["content"] for message in messages)]
        self.calls += 1
        self.tokens_made += len(ids)
        return ids


def echo(question: str) -> str:
    """The answer of a fake that was told nothing else."""
    return f"You said: {question}"


@dataclass
class FakeStream:
    """Yields the answer one character at a time.

    Args:
        answer: from the last message to the answer; may raise to play a failing model.
        delay: seconds per token.
        gate: released once per token by a test that wants to hold the model at a known place.
    """

    answer: Callable[[str], str] = echo
    delay: float = 0.0
    gate: threading.Semaphore | None = None
    steps: int = 0
    prompts: list[str] = field(default_factory=list)
    seen_options: list[Any] = field(default_factory=list)

    def __call__(
        self, model: Any, tokenizer: Any, prompt: list[int], options: Any, should_stop: Callable[[], bool]
    ) -> Iterator[Chunk]:
        text = "".join(map(chr, prompt))
        self.prompts.append(text)
        self.seen_options.append(options)
        answer = self.answer(text.rpartition(SEPARATOR)[2])
        room = options.max_length - len(prompt)
        for count, character in enumerate(answer, start=1):
            if should_stop():
                yield Chunk("", count - 1, "cancelled")
                return
            if self.gate is not None:
                self.gate.acquire()
            if self.delay:
                time.sleep(self.delay)
            self.steps += 1
            yield Chunk(character, count, "length" if count == room else None)
            if count == room:
                return
        yield Chunk("", len(answer) + 1, "stop")


def fake_engine(
    answer: Callable[[str], str] = echo, *, delay: float = 0.0, queue_size: int = 32, is_demo: bool = True
) -> Engine:
    """An engine that answers by `answer`, `delay` seconds per character."""
    stream = FakeStream(answer, delay)
    return Engine(FakeModel(is_demo=is_demo), FakeTokenizer(), queue_size=queue_size, stream=stream)
