"""Pass the events of an answer from the engine to its consumer, and let the consumer cancel it.

Events go from the engine's worker to one consumer through a `SimpleQueue`. Adding an event costs the worker well under
a microsecond and takes no lock that a signal handler could wait for. Texts that arrive while the consumer is busy are
joined into one event. If a fast model woke its consumer at every token, it would lose a tenth of its speed; therefore
texts are delivered at most every SECONDS_BETWEEN_TEXTS, except that the last one is delivered at once. The module does
not import torch.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from glm_model.blank_filling import FillResult, FillStep

SECONDS_BETWEEN_TEXTS = 0.02

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Queued:
    """The place of a waiting request in the queue (`position` 1 = next). Sent again at every change."""

    position: int


@dataclass(frozen=True)
class Trimmed:
    """The number of oldest rounds of the conversation that were dropped so that the rest fits."""

    rounds: int


@dataclass(frozen=True)
class Text:
    """New text of the answer. The first text may be empty: it marks the end of the waiting."""

    delta: str


@dataclass(frozen=True)
class Filling:
    """The present state of a text whose blanks are being filled. A consumer gets only the newest state."""

    step: FillStep


@dataclass(frozen=True)
class Filled:
    """The result of filling a text with blanks; `Finished` follows."""

    result: FillResult


@dataclass(frozen=True)
class Timing:
    """The times of an answer, in seconds.

    Attributes:
        waited: from the request until the model began with it.
        first_token: from the request until the first token of the answer.
        writing: from the first token to the end.
    """

    waited: float
    first_token: float
    writing: float

    def tokens_per_second(self, answer_tokens: int) -> float | None:
        """Return the rate at which tokens followed the first one; None for an answer without a second one."""
        return (answer_tokens - 1) / self.writing if answer_tokens > 1 and self.writing > 0 else None


@dataclass(frozen=True)
class Finished:
    """The last event. Reason `length`: the maximum length cut the answer; `cancelled`: a user stopped it.

    Two such events are equal whatever their times are.
    """

    reason: FinishReason
    prompt_tokens: int
    answer_tokens: int
    timing: Timing = field(default=Timing(0.0, 0.0, 0.0), compare=False)


@dataclass(frozen=True)
class Failed:
    """The last event if there is no answer; it takes the place of `Finished`.

    Attributes:
        message: a sentence for the user, in English.
        kind: the type of the failure, with which a front-end can give the message in another language: "too_long" (the
            last message alone does not fit), "memory" (out of memory), "closed" (the engine is shutting down) or
            "error" (anything else); for a text with blanks also "no_text", "too_many_blanks" and "unknown_mask".
        tokens: for "too_long" the number of tokens, for "too_many_blanks" the number of blanks, else 0.
        limit: the largest allowed number of tokens or blanks, else 0.
    """

    message: str
    kind: Literal["too_long", "memory", "closed", "error", "no_text", "too_many_blanks", "unknown_mask"] = "error"
    tokens: int = 0
    limit: int = 0


Event = Queued | Trimmed | Text | Filling | Filled | Finished | Failed


class Reply:
    """The events of one answer, for one consumer that iterates with `for` or `async for`.

    As a context manager it cancels the answer if the block ends before the last event, so that the model does not
    compute for a consumer that has ended.
    """

    def __init__(self, on_cancel: Callable[[Reply], None]) -> None:
        self._on_cancel = on_cancel
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._read_ahead: deque[Event] = deque()
        self._ended = False
        self._next_text = 0.0  # time of the monotonic clock before which no further text is delivered
        self._wake: Callable[[], None] | None = None
        self._all_sent = False
        self._over: SimpleQueue[None] = SimpleQueue()  # ends a wait for more text once all events are sent
        self._wake_at_end: Callable[[], None] | None = None

    def cancel(self) -> None:
        """Stop the answer: at once if it waits, within one token if it runs. Do nothing if it has ended."""
        self._on_cancel(self)

    def __enter__(self) -> Reply:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._ended:
            self.cancel()

    # Methods for the engine.

    def send(self, event: Event) -> None:
        """Add an event. The engine calls this on its worker, or on the thread that submits or cancels."""
        self._events.put(event)
        wake, self._wake = self._wake, None
        if wake is not None:
            wake()
        if isinstance(event, Finished | Failed):
            self._all_sent = True
            self._over.put(None)
            if self._wake_at_end is not None:
                self._wake_at_end()

    # Methods for the consumer.

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        if self._ended:
            raise StopIteration
        if (early := self._next_text - time.monotonic()) > 0 and not self._all_sent:
            with suppress(Empty):
                self._over.get(timeout=early)
        return self._joined(self._read_ahead.popleft() if self._read_ahead else self._events.get())

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        if self._ended:
            raise StopAsyncIteration
        if (early := self._next_text - time.monotonic()) > 0:
            over, self._wake_at_end = _future_and_waker()
            if not self._all_sent:
                await asyncio.wait([over], timeout=early)
        while not self._read_ahead:
            # The future is created before the queue is checked, so that no event is missed between the two.
            arrived, self._wake = _future_and_waker()
            try:
                self._read_ahead.append(self._events.get_nowait())
            except Empty:
                await arrived
        return self._joined(self._read_ahead.popleft())

    def _joined(self, event: Event) -> Event:
        """Return `event` combined with later ones: texts are joined, outdated positions and states are skipped."""
        pieces = [event.delta] if isinstance(event, Text) else []
        while isinstance(event, Text | Filling | Queued):
            try:
                following = self._read_ahead.popleft() if self._read_ahead else self._events.get_nowait()
            except Empty:
                break
            if type(following) is not type(event):
                self._read_ahead.append(following)
                break
            event = following
            if isinstance(event, Text):
                pieces.append(event.delta)
        self._ended = isinstance(event, Finished | Failed)
        if not isinstance(event, Text):
            return event
        self._next_text = time.monotonic() + SECONDS_BETWEEN_TEXTS
        return Text("".join(pieces))


def _future_and_waker() -> tuple[asyncio.Future[None], Callable[[], None]]:
    """Return a future of the running event loop, and a function that completes it from any thread."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def complete() -> None:
        if not future.done():
            future.set_result(None)

    def wake() -> None:
        with suppress(RuntimeError):  # the loop is closed, maybe since a moment ago; nobody waits any more
            loop.call_soon_threadsafe(complete)

    return future, wake
