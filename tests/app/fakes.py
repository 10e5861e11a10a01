"""A model, tokenizer and stream made of plain Python, for tests of the front-ends: no weights, no waiting.

One token is one character. The answer comes from a function of the last message, at a speed the test sets,
and with a `gate` token by token as the test allows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from app.serving.conversation import Message
from app.serving.engine import Engine
from glm_model.blank_filling import Answer, Blank, FilledText, FillError, FillResult, FillStep, Segment
from glm_model.errors import UnsupportedError
from glm_model.generation.stream import TextChunk

SEPARATOR = "\x1e"  # stands between messages in the fake prompt


class FakeModel:
    """Has what the engine asks a model about itself."""

    def __init__(self, *, is_demo: bool = True, name: str = "fake-glm", context_length: int = 2048) -> None:
        self.config = SimpleNamespace(name_or_path=name, is_demo=is_demo, max_sequence_length=context_length)
        self.device = "cpu"
        self.runtime = SimpleNamespace(leader=None)

    def num_parameters(self) -> int:
        return 1234

    def parameters(self) -> list[Any]:
        return []


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
    ) -> Generator[TextChunk, Any, None]:
        text = "".join(map(chr, prompt))
        self.prompts.append(text)
        self.seen_options.append(options)
        answer = self.answer(text.rpartition(SEPARATOR)[2])
        room = options.max_length - len(prompt)
        for count, character in enumerate(answer, start=1):
            if should_stop():
                yield TextChunk("", count - 1, "cancelled")
                return
            if self.gate is not None:
                self.gate.acquire()
            if self.delay:
                time.sleep(self.delay)
            self.steps += 1
            yield TextChunk(character, count, "length" if count == room else None)
            if count == room:
                return
        yield TextChunk("", len(answer) + 1, "stop")


def shout(blank: int) -> str:
    """The filling of a fake that was told nothing else."""
    return f"filling {blank}"


@dataclass
class FakeFill:
    """Fills the [MASK]s of a text one character at a time; a text without any gets one at its end.

    A beam search has ``num_beams`` answers, told apart by a letter behind them.

    Args:
        answer: from the number of a blank, from 1, to its filling; may raise to play a failing model.
        gate: as of FakeStream; the characters of all fillings count.
        longest: a text with more characters is refused.
    """

    answer: Callable[[int], str] = shout
    gate: threading.Semaphore | None = None
    longest: int = 2000
    most_blanks: int = 64
    texts: list[str] = field(default_factory=list)
    seen_options: list[Any] = field(default_factory=list)
    steps: int = 0

    def __call__(
        self, model: Any, tokenizer: Any, text: str, options: Any, *, should_stop: Callable[[], bool]
    ) -> Generator[FillStep, Any, None]:
        self.texts.append(text)
        self.seen_options.append(options)
        parts = self._parts(text)
        fillings: list[str] = []
        blanks: list[Blank] = []
        reason = "stop"
        while len(fillings) < len(parts) - 1 and reason == "stop":
            fillings.append("")
            for character in self.answer(len(fillings)):
                if should_stop():
                    reason = "cancelled"
                    break
                if self.gate is not None:
                    self.gate.acquire()
                self.steps += 1
                fillings[-1] += character
                shown = _filled(parts, fillings)
                yield FillStep(len(fillings) - 1, len(parts) - 1, lambda shown=shown: shown)  # type: ignore[misc]
            blanks.append(_blank(fillings[-1], options, reason))
        texts = tuple(_filled(parts, [*fillings[:-1], answer.text], answer.score) for answer in blanks[-1].answers)
        yield FillStep(len(blanks) - 1, len(blanks), lambda: texts[0], FillResult(texts, tuple(blanks)))

    def _parts(self, text: str) -> list[str]:
        if not text:
            raise FillError("no text", "no_text")
        if "[sMASK]" in text:
            raise UnsupportedError("this model knows no [sMASK]")
        if len(text) > self.longest:
            raise FillError("too long", "too_long", len(text), self.longest)
        parts = text.split("[MASK]")
        if len(parts) - 1 > self.most_blanks:
            raise FillError("too many", "too_many_blanks", len(parts) - 1, self.most_blanks)
        return parts if len(parts) > 1 else [text, ""]


def _blank(filling: str, options: Any, reason: Any) -> Blank:
    if options.strategy != "beam_search":
        return Blank((0,), (Answer(filling, (1,), None, reason),))
    endings = ["", *(f" {letter}" for letter in "BCDEFGH")][: options.num_beams]
    return Blank(
        (0,), tuple(Answer(filling + ending, (1,), -0.5 - rank, reason) for rank, ending in enumerate(endings))
    )


def _filled(parts: list[str], fillings: list[str], score: float | None = None) -> FilledText:
    """The parts with as many fillings as there are between them."""
    segments = []
    for index, part in enumerate(parts):
        segments += [Segment(part, False)] if part else []
        if index < len(fillings):
            segments.append(Segment(fillings[index], True))
        elif index < len(parts) - 1:
            segments.append(Segment("[MASK]", False))
    text = "".join(segment.text for segment in segments)
    return FilledText(tuple(segments), text, score, tuple(range(len(fillings))))


def visitor(session: str = "me", language: str = "en-US") -> Any:
    """What Gradio tells of the request."""
    return SimpleNamespace(session_hash=session, headers={"accept-language": language})


def fake_engine(
    answer: Callable[[str], str] = echo, *, delay: float = 0.0, queue_size: int = 32, is_demo: bool = True
) -> Engine:
    """An engine that answers by `answer`, `delay` seconds per character."""
    stream = FakeStream(answer, delay)
    return Engine(FakeModel(is_demo=is_demo), FakeTokenizer(), queue_size=queue_size, write_text=stream)
