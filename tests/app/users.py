"""Many users of one engine with a real model: what they ask, what each would be told alone, and turns one by one."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from app.serving.conversation import Message
from app.serving.engine import Engine
from app.serving.jobs import encode
from app.serving.reply import Event, Failed, Finished, Queued, Reply, Text
from glm_model.generation.alone import run
from glm_model.generation.batch import Batch
from glm_model.generation.stream import write_text
from glm_model.options import SamplingOptions

LIMIT = 2.0
"""Seconds within which every reply must have ended after a fault."""


class Numbers:
    """A tokenizer whose texts are ids with spaces between them; the answers have a comma after each id."""

    pad_token_id = None
    dropped_leading_spaces = 0.0

    def __init__(self, model: Any) -> None:
        self._ends = [model.config.gmask_token_id, model.config.bos_token_id]

    def apply_chat_template(self, messages: list[Message], **_: Any) -> list[int]:
        return [*(int(word) for message in messages for word in message["content"].split()), *self._ends]

    def surface(self, token_id: int) -> str:
        return f"{token_id},"

    def encode_text(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode_exact(self, token_ids: Sequence[int]) -> str:
        return " ".join(map(str, token_ids))


def question(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def greedy(**settings: Any) -> SamplingOptions:
    return SamplingOptions(**{"temperature": 0, "max_length": 56, **settings})


def text_of(events: Sequence[Event]) -> str:
    return "".join(event.delta for event in events if isinstance(event, Text))


@dataclass(frozen=True)
class Told:
    """An answer: its text, and how many tokens prompt and answer have."""

    text: str
    prompt_tokens: int
    answer_tokens: int

    @classmethod
    def alone(cls, model: Any, tokenizer: Any, messages: list[Message], sampling: SamplingOptions) -> "Told":
        """What the model writes by itself, after one pass of the whole prompt."""
        prompt = encode(tokenizer, messages)
        chunks = list(run(model, write_text(model, tokenizer, prompt, sampling)))
        return cls("".join(chunk.text for chunk in chunks), len(prompt), chunks[-1].token_count)

    @classmethod
    def of(cls, events: Sequence[Event]) -> "Told":
        """What an engine has told."""
        end = events[-1]
        assert isinstance(end, Finished), end
        return cls(text_of(events), end.prompt_tokens, end.answer_tokens)


def read_all(replies: Sequence[Reply], within: float = 60) -> list[list[Event]]:
    """The events of all replies, each of which must end in so many seconds with its one last event."""
    found: list[list[Event]] = [[] for _ in replies]
    readers = [
        threading.Thread(target=events.extend, args=(reply,), daemon=True)
        for events, reply in zip(found, replies, strict=True)
    ]
    for reader in readers:
        reader.start()
    deadline = time.monotonic() + within
    for reader in readers:
        reader.join(max(0.0, deadline - time.monotonic()))
    assert not any(reader.is_alive() for reader in readers), "a reply was lost"
    for events in found:
        assert [isinstance(event, Finished | Failed) for event in events].count(True) == 1
        assert isinstance(events[-1], Finished | Failed)
    return found


def sent(reply: Reply) -> list[Event]:
    """What a reply has been sent since it was last looked at."""
    return [reply._events.get() for _ in range(reply._events.qsize())]


def position(events: Sequence[Event]) -> int | None:
    """The newest place in the queue of which a reply was told."""
    return next((event.position for event in reversed(events) if isinstance(event, Queued)), None)


def has_begun(events: Sequence[Event]) -> bool:
    return any(isinstance(event, Text) for event in events)


def wait_until(condition: Callable[[], bool], within: float = 10) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


class Turns:
    """Lets the workers of engines take a turn only when the test says so.

    Between two calls of :meth:`take` a worker stands in front of its next turn: it has admitted whom it could.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._allowed = threading.Semaphore(0)
        self._reached = 0
        self._is_open = False
        turn = Batch.turn

        def gated(batch: Batch) -> Iterator[Any]:
            self._reached += 1
            if not self._is_open:
                self._allowed.acquire()
            yield from turn(batch)

        monkeypatch.setattr(Batch, "turn", gated)

    def start(self) -> None:
        """Wait for the first turn."""
        wait_until(lambda: self._reached == 1)

    def take(self, count: int, engine: Engine) -> None:
        """Take turns; fewer if there is nothing left to do."""
        for _ in range(count):
            wanted = self._reached + 1
            self._allowed.release()
            wait_until(lambda: self._reached >= wanted or not (engine._running or engine._waiting))  # noqa: B023
            if self._reached < wanted:
                return

    def open(self) -> None:
        """Let all further turns run."""
        self._is_open = True
        self._allowed.release()
