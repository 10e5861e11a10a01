"""Run the model in one worker thread, which writes the answers of many users at once.

Front-ends submit a conversation or a text with blanks and read the events of the reply (reply.py). Users share the
queue, the rows of the model's steps and the memory of its cache. Requests are admitted in the order in which they have
come, as soon as a row and memory for their greatest length are free. While others wait, nobody gets more than half of
the rows. An error ends the answers that it concerns, and the worker goes on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from glm_model.errors import GLMError
from glm_model.generation.batch import Batch, Ended, Member
from glm_model.generation.requests import Interrupted
from glm_model.generation.row_passes import prefix_tokens, rows_can_join, token_bytes
from glm_model.loading import free_bytes

from .conversation import ConversationError, Message, check_messages
from .jobs import ChatJob, FillJob, FillWriter, Job, TextWriter, failure
from .model_info import describe
from .reply import Failed, Finished, FinishReason, Queued, Reply

if TYPE_CHECKING:
    from glm_model.blank_filling import FillOptions
    from glm_model.options import SamplingOptions

    from ..options import Options

logger = logging.getLogger(__name__)

MOST_ROWS = 32
"""The most rows of a step by default. More make a step of packed weights hardly cheaper for each of them."""


class QueueFull(GLMError):  # noqa: N818 - named like queue.Full
    """The error of `submit` and `fill` when too many requests are waiting already."""


class EngineClosed(GLMError):  # noqa: N818
    """The error of `submit` and `fill` after the engine has been closed, or its worker has died."""


@dataclass(frozen=True)
class EngineState:
    """What an engine is doing, and what it has done since its start.

    Attributes:
        rows: the number of rows that are decoded or whose prompts are computed.
        most_rows: the largest such number.
        waiting: the number of requests in the queue.
        reserved_tokens: tokens for which the admitted requests may need memory.
        cache_tokens: the largest such number.
        token_bytes: the bytes that one of them takes; 0 if the engine does not count them.
        answered: the number of requests that were finished or cancelled.
        failed: the number of requests that failed.
        prompt_tokens, answer_tokens: of all answers that have ended.
    """

    rows: int
    most_rows: int
    waiting: int
    reserved_tokens: int
    cache_tokens: int
    token_bytes: int
    answered: int
    failed: int
    prompt_tokens: int
    answer_tokens: int


_LimitedOptions = TypeVar("_LimitedOptions", "SamplingOptions", "FillOptions")


class Engine:
    """The owner of one model, which answers any number of users at the same time.

    Args:
        model, tokenizer: as returned by `glm_model.loading.load`. From now on only the worker thread uses them, except
            that consumers of `Filling` events decode with the tokenizer.
        queue_size: the number of requests that may wait, besides those that free rows are waiting for.
        most_rows: the number of rows that are decoded at the same time. A model that lies on several devices decodes
            one. On a GPU every row gets memory for the whole context, so that there may be fewer.
        cache_tokens: the number of tokens whose keys and values may be in memory; a request alone may have more. None
            takes what half of the free memory holds.
        write_text: makes the writers of chats; by default `glm_model.generation.stream.write_text`.
        write_fill: makes the writers of filled texts; by default `glm_model.blank_filling.write_blanks`.

    Raises:
        ValueError: `queue_size` or `most_rows` is less than 1.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        queue_size: int = 32,
        most_rows: int = MOST_ROWS,
        cache_tokens: int | None = None,
        write_text: TextWriter | None = None,
        write_fill: FillWriter | None = None,
    ) -> None:
        for name, value in (("queue_size", queue_size), ("most_rows", most_rows)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        self.model_info = describe(model)
        self._model, self._tokenizer = model, tokenizer
        self._write_text = write_text or _default_text_writer()
        self._write_fill = write_fill or _default_fill_writer()
        self._token_bytes = token_bytes(model) if rows_can_join(model) else 0
        self._most_rows, self._cache_tokens = self._capacity(most_rows, cache_tokens)
        self._batch = Batch(model, self._most_rows, self.model_info.context_length)
        self._queue_size = queue_size
        # On a GPU the rows have their memory already.
        counts_prefix = self._token_bytes and self.model_info.device == "cpu"
        self._prefix_tokens = prefix_tokens(model) if counts_prefix else 0
        self._waiting: list[Job] = []
        self._running: list[Job] = []
        self._members: dict[Job, Member] = {}
        self._jobs: dict[Member, Job] = {}
        self._totals = {"answered": 0, "failed": 0, "prompt_tokens": 0, "answer_tokens": 0}
        self._closed = False
        self._changed = threading.Condition()
        self._worker = threading.Thread(target=self._work, name="glm-engine", daemon=True)
        self._worker.start()

    @classmethod
    def from_options(cls, options: Options) -> Engine:
        """Return an engine with the model that `options` name.

        Raises:
            GLMError, OSError: the model cannot be loaded; the message is for the user.
            SystemExit: on the other ranks of a parallel run, after rank 0 has ended.
        """
        import torch

        from glm_model.loading import DEMO_MODEL, lead_or_follow, load, rounds_activations

        if options.threads is not None:
            torch.set_num_threads(options.threads)
        folder = Path(options.model) if options.model else DEMO_MODEL
        model, tokenizer = load(folder, options=options.loading())
        if options.cache_dtype is None and rounds_activations(model):
            # Of 576 answers of the demo model it changes none, and twice as many rows have room.
            model.runtime.cache_dtype = torch.float16
        if not lead_or_follow(model, tokenizer):
            raise SystemExit  # rank 0 has served its users
        tokens = None if options.cache_gb is None else max(1, int(options.cache_gb * 1e9) // token_bytes(model))
        return cls(model, tokenizer, queue_size=options.queue_size, most_rows=options.max_rows, cache_tokens=tokens)

    def _capacity(self, most_rows: int, cache_tokens: int | None) -> tuple[int, int]:
        """Return the number of rows, and that of tokens in the cache, for the arguments of `Engine`."""
        one_row, device = self.model_info.context_length, self.model_info.device
        if not self._token_bytes:
            return 1, one_row
        if cache_tokens is None:
            cache_tokens = max(1, free_bytes(device) // 2 // self._token_bytes)
        if device == "cpu":  # takes memory as rows grow
            return most_rows, cache_tokens
        most_rows = max(1, min(most_rows, cache_tokens // one_row))
        return most_rows, most_rows * one_row

    # Methods for any thread.

    def submit(self, messages: Sequence[Message], sampling: SamplingOptions, *, owner: Hashable | None = None) -> Reply:
        """Queue a conversation whose last message is the user's, and return the reply.

        Args:
            messages: the conversation.
            sampling: how the answer is chosen.
            owner: who asks; a session or a key. While others wait, an owner gets no more than half of the rows.

        Raises:
            QueueFull: `queue_size` requests are waiting already.
            EngineClosed: the engine has been closed, or its worker has died.
            ConversationError: there is no message, the last one is not the user's, or one is malformed.
        """
        return self._enqueue(
            ChatJob(
                self._write_text,
                self._model,
                self._tokenizer,
                _check_prompt(messages),
                self._within_context(sampling),
                self.model_info.context_length,
                Reply(self._cancel),
                owner,
            )
        )

    def fill(self, text: str, options: FillOptions, *, owner: Hashable | None = None) -> Reply:
        """Queue a text with blanks to fill, and return the reply: `Filling` events, then `Filled` and `Finished`.

        Raises:
            QueueFull, EngineClosed: as for `submit`.
        """
        options = self._within_context(options)
        reply = Reply(self._cancel)
        return self._enqueue(FillJob(self._write_fill, self._model, self._tokenizer, text, options, reply, owner))

    @property
    def is_alive(self) -> bool:
        """Whether the engine answers requests."""
        return not self._closed and self._worker.is_alive()

    @property
    def state(self) -> EngineState:
        """What the engine is doing."""
        with self._changed:
            reserved = sum(job.tokens for job in self._running)
            return EngineState(
                *(self._rows, self._most_rows, len(self._waiting), reserved, self._cache_tokens, self._token_bytes),
                **self._totals,
            )

    def close(self) -> None:
        """Stop the running answers within one token, end the waiting requests, and wait until the worker has ended."""
        with self._changed:
            self._closed = True
            for job in self._running:
                job.is_cancelled = True
            self._end_all(self._waiting, Failed("The program is shutting down.", "closed"))
            self._changed.notify()
        if threading.current_thread() is not self._worker:
            self._worker.join()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _enqueue(self, job: Job) -> Reply:
        with self._changed:
            if self._closed:
                raise EngineClosed("the model has been shut down; start the program again")
            free_rows = max(0, self._most_rows - self._rows)
            if len(self._waiting) >= self._queue_size + free_rows:
                raise QueueFull(f"{self._queue_size} answers are waiting already; please try again in a moment")
            job.tokens += job.rows * self._prefix_tokens
            self._waiting.append(job)
            self._announce(free_rows)
            self._changed.notify()
        return job.reply

    def _within_context(self, options: _LimitedOptions) -> _LimitedOptions:
        most = self.model_info.context_length
        return options if options.max_length <= most else replace(options, max_length=most)

    def _cancel(self, reply: Reply) -> None:
        with self._changed:
            for job in self._running:
                if job.reply is reply:
                    job.is_cancelled = True
            for job in self._waiting:
                if job.reply is reply:
                    self._waiting.remove(job)
                    self._send_last(job, job.finished("cancelled"))
                    self._announce(self._most_rows - self._rows)
                    return

    # Methods that need the lock.

    @property
    def _rows(self) -> int:
        return sum(job.rows for job in self._running)

    def _announce(self, free_rows: int) -> None:
        """Tell each waiting request its position, if it has changed. The first ``free_rows`` begin at once."""
        for position, job in enumerate(self._waiting, start=1 - max(0, free_rows)):
            if position > 0 and position != job.position:
                job.position = position
                job.reply.send(Queued(position))

    def _next_job(self) -> Job | None:
        """Return the waiting request that is to begin now, None if there is none."""
        for job in self._waiting:
            if not self._holds_enough(job):
                # Nobody overtakes one who waits for room.
                return job if not self._running or self._has_room_for(job) else None
        return None

    def _has_room_for(self, job: Job) -> bool:
        tokens = sum(running.tokens for running in self._running) + job.tokens
        return self._rows + job.rows <= self._most_rows and tokens <= self._cache_tokens

    def _holds_enough(self, job: Job) -> bool:
        """Return whether the owner of a waiting request holds half of the rows, and others wait."""
        if job.owner is None or all(other.owner == job.owner for other in self._waiting):
            return False
        held = sum(running.rows for running in self._running if running.owner == job.owner)
        return held > 0 and 2 * (held + job.rows) > self._most_rows

    def _end_all(self, jobs: list[Job], event: Failed) -> None:
        while jobs:
            self._send_last(jobs.pop(), event)

    def _send_last(self, job: Job, event: Finished | Failed) -> None:
        if isinstance(event, Failed):
            self._totals["failed"] += 1
        else:
            self._totals["answered"] += 1
            self._totals["prompt_tokens"] += event.prompt_tokens
            self._totals["answer_tokens"] += event.answer_tokens
        job.reply.send(event)

    # Methods of the worker thread.

    def _work(self) -> None:
        try:
            while self._admit():
                for member, item in self._batch.turn():
                    self._deliver(self._jobs[member], item)
                self._remove_cancelled()
        except BaseException:  # the error of an answer does not come here, so that the engine itself is broken
            logger.exception("the engine has died")
        finally:
            self._die()

    def _admit(self) -> bool:
        """Begin the requests that there is room for; wait if there is nothing to do. Return False to end the worker."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting or self._running)
                job = None if self._closed else self._next_job()
                if job is None:
                    self._announce(0)
                    return bool(self._running)
                self._waiting.remove(job)
                self._running.append(job)
                self._keep_contexts()
            self._begin(job)

    def _begin(self, job: Job) -> None:
        try:
            member = self._batch.insert(job.begin())
        except Exception as error:
            self._end(job, failure(error))
        else:
            self._members[job], self._jobs[member] = member, job

    def _deliver(self, job: Job, item: object) -> None:
        last: Finished | Failed | None
        if isinstance(item, Ended):
            reason: FinishReason = "cancelled" if job.is_cancelled else "stop"
            if item.error is None or isinstance(item.error, Interrupted):
                last = job.finished(reason)
            else:
                last = failure(item.error)
        else:
            try:
                last = job.deliver(item)
            except Exception as error:
                last = failure(error)
        if last is not None:
            self._end(job, last)

    def _remove_cancelled(self) -> None:
        """End the cancelled requests whose prompt is still being computed; the writer of any other one ends itself."""
        with self._changed:
            cancelled = [self._members[job] for job in self._running if job.is_cancelled]
        for member in cancelled:
            if member.is_waiting_for_prompt:
                for _, item in self._batch.interrupt(member):
                    self._deliver(self._jobs[member], item)

    def _end(self, job: Job, event: Finished | Failed) -> None:
        member = self._members.pop(job, None)
        if member is not None:
            del self._jobs[member]
            self._batch.remove(member)
        with self._changed:
            self._running.remove(job)
            self._send_last(job, event)
            self._keep_contexts()

    def _keep_contexts(self) -> None:
        """Limit the contexts that are kept for a retry to memory that nobody needs."""
        free = self._cache_tokens - sum(job.tokens for job in self._running)
        self._batch.keep_at_most(max(0, min(free, self._cache_tokens // 4)))

    def _die(self) -> None:
        died = Failed("The model has stopped working; start the program again.", "closed")
        with self._changed:
            self._closed = True
            self._end_all(self._running, died)
            self._end_all(self._waiting, died)


def _check_prompt(messages: Sequence[Message]) -> list[Message]:
    checked = check_messages(messages)
    if not checked or checked[-1]["role"] != "user":
        raise ConversationError("the last message of a conversation to answer must be the user's")
    return checked


def _default_text_writer() -> TextWriter:
    from glm_model.generation.stream import write_text

    return write_text


def _default_fill_writer() -> FillWriter:
    from glm_model.blank_filling import write_blanks

    return write_blanks
