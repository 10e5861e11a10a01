"""What a front-end gets for what it submitted, a conversation or a text with blanks: events, and the means to stop it.

Events pass from the engine's worker to one consumer through a `SimpleQueue`: handing one over costs the
worker well under a microsecond, takes no lock that a signal handler could meet, and text that came while the
consumer was away is joined into one event. A fast model must not wake its consumer at every token, which
would cost it a tenth of its speed, so texts are given out at most every SECONDS_BETWEEN_TEXTS, the
last one at once. No torch here.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from glm_model.blank_filling import FillResult, FillStep

SECONDS_BETWEEN_TEXTS = 0.02

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Queued:
    """Waiting for the model; `position` answers come before (1 = next). Sent again whenever it changes."""

    position: int


@dataclass(frozen=True)
class Trimmed:
    """The oldest `rounds` of the conversation were left out so that the rest fits."""

    rounds: int


@dataclass(frozen=True)
class Text:
    """New text of the answer. The first one may be empty: it says that the waiting is over."""

    delta: str


@dataclass(frozen=True)
class Filling:
    """Where the filling of a text stands; only the newest is kept for a consumer that was away."""

    step: FillStep


@dataclass(frozen=True)
class Filled:
    """What became of a text with blanks; `Finished` follows."""

    result: FillResult


@dataclass(frozen=True)
class Finished:
    """The last event. `length`: the maximum length cut the answer; `cancelled`: somebody stopped it."""

    reason: FinishReason
    prompt_tokens: int
    answer_tokens: int


@dataclass(frozen=True)
class Failed:
    """The last event instead of `Finished`: a sentence for the user.

    `kind` lets a front-end say it in another language: "too_long" (the last message alone does not fit),
    "memory" (out of memory), "closed" (the engine is shutting down) or "error" (anything else); of a text with blanks
    also "no_text", "too_many_blanks" and "unknown_mask". For those that are too much, `tokens` is what there is and
    `limit` what there may be, of tokens or of blanks.
    """

    message: str
    kind: Literal["too_long", "memory", "closed", "error", "no_text", "too_many_blanks", "unknown_mask"] = "error"
    tokens: int = 0
    limit: int = 0


Event = Queued | Trimmed | Text | Filling | Filled | Finished | Failed


class Reply:
    """The answer to one conversation: iterate it (`for` or `async for`, one consumer) for its events.

    As a context manager it cancels the answer when the block is left early, so that nothing is computed for
    a consumer that is gone.
    """

    def __init__(self, on_cancel: Callable[[Reply], None]) -> None:
        self._on_cancel = on_cancel
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._read_ahead: deque[Event] = deque()
        self._ended = False
        self._next_text = 0.0  # when, by the monotonic clock, the consumer may be woken again
        self._wake: Callable[[], None] | None = None
        self._all_sent = False
        self._over: SimpleQueue[None] = SimpleQueue()  # for a consumer that lets text gather: no more will come
        self._wake_at_end: Callable[[], None] | None = None

    def cancel(self) -> None:
        """Stop the answer: at once if it waits, within one token if it runs; harmless if it has ended."""
        self._on_cancel(self)

    def __enter__(self) -> Reply:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._ended:
            self.cancel()

    # The engine's side.

    def send(self, event: Event) -> None:
        """Hand over an event; for the engine, from its worker or from whoever submits or cancels."""
        self._events.put(event)
        wake, self._wake = self._wake, None
        if wake is not None:
            wake()
        if isinstance(event, Finished | Failed):
            self._all_sent = True
            self._over.put(None)
            if self._wake_at_end is not None:
                self._wake_at_end()

    # The consumer's side.

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
            # Made before looking, so that no event slips between.
            arrived, self._wake = _future_and_waker()
            try:
                self._read_ahead.append(self._events.get_nowait())
            except Empty:
                await arrived
        return self._joined(self._read_ahead.popleft())

    def _joined(self, event: Event) -> Event:
        """`event` with what has arrived since: texts joined, an outdated position or filling skipped."""
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
    """A future of the running loop, and what completes it from any thread."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def complete() -> None:
        if not future.done():
            future.set_result(None)

    def wake() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(complete)

    return future, wake
