"""Run the model in one worker thread, which answers conversations and fills blanks, one request at a time.

Front-ends submit a conversation or a text with blanks and read the events of the reply (reply.py). Users share only
the queue. The worker counts tokens and trims conversations by the same rules for every front-end:

- The prompt and the answer together have at most `max_length` tokens, and never more than the model was trained for
  (`ModelInfo.context_length`), since its output degrades beyond that.
- The oldest rounds are dropped until `answer_room(max_length)` tokens are free for the answer.
- If the last message alone does not fit then, it may use that room too, except for `LEAST_ANSWER` tokens. A still
  longer message is refused, with its length, the limit and the remedy.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from glm_model.errors import GLMError, UnsupportedError

from .conversation import ConversationError, Message, check_messages, trim
from .reply import Event, Failed, Filled, Filling, Finished, FinishReason, Queued, Reply, Text, Trimmed

if TYPE_CHECKING:
    from glm_model.blank_filling import FillOptions, FillResult, FillStep
    from glm_model.generation.stream import TextChunk
    from glm_model.options import SamplingOptions

    from ..options import Options

__all__ = [
    "Engine",
    "Event",
    "Failed",
    "Filled",
    "Filling",
    "Finished",
    "ModelInfo",
    "QueueFull",
    "Queued",
    "Reply",
    "Text",
    "Trimmed",
    "answer_room",
]

logger = logging.getLogger(__name__)

LEAST_ANSWER = 16  # tokens that must remain for the answer even after the longest message

Stream = Callable[..., "Iterator[TextChunk]"]
"""Takes (model, tokenizer, prompt_ids, options, should_stop); see glm_model.generation.stream.stream_text."""

FillStream = Callable[..., "Iterator[FillStep]"]
"""Takes (model, tokenizer, text, options, should_stop=...); see glm_model.blank_filling.stream_blanks."""


class QueueFull(GLMError):  # noqa: N818 - named like queue.Full
    """The error of `submit` and `fill` when too many requests are waiting already."""


class EngineClosed(GLMError):  # noqa: N818
    """The error of `submit` and `fill` after the engine has been closed."""


class _Refused(Exception):  # noqa: N818
    """The internal signal that a request is refused; it carries the `Failed` event with the reason."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.message)
        self.failed = failed


@dataclass(frozen=True)
class ModelInfo:
    """The properties of the model that a front-end shows.

    Attributes:
        name: the name of the model's folder.
        is_demo: the model is the demo model of this project.
        device: the device of its weights, such as "cpu" or "cuda:0".
        parameters: the number of parameters.
        quantization: "int4" or "int8", None if the weights are not quantized.
        context_length: the number of tokens that the model was trained for.
        kernel: one line on the kernel that multiplies with packed weights, None if the weights are not quantized.
    """

    name: str
    is_demo: bool
    device: str
    parameters: int
    quantization: str | None
    context_length: int
    kernel: str | None = None


_LimitedOptions = TypeVar("_LimitedOptions", "SamplingOptions", "FillOptions")


@dataclass(eq=False)
class _Job:
    """A request in the queue or in the worker."""

    reply: Reply
    run: Callable[[_Job], Finished]  # on the worker
    cancelled: bool = field(default=False)

    def is_cancelled(self) -> bool:
        return self.cancelled


def answer_room(max_length: int) -> int:
    """Return the number of tokens that trimming keeps free for the answer: a quarter of the length, at most 512."""
    return min(512, max_length // 4)


class Engine:
    """The owner of one model, which answers any number of users one after the other.

    Args:
        model, tokenizer: as returned by `glm_model.loading.load`. From now on only the worker thread uses them, except
            that consumers of `Filling` events decode with the tokenizer.
        queue_size: the number of requests that may wait behind the running one.
        stream: generates text; by default `glm_model.generation.stream.stream_text`.
        fill_stream: fills blanks; by default `glm_model.blank_filling.stream_blanks`.

    Raises:
        ValueError: `queue_size` is less than 1.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        queue_size: int = 32,
        stream: Stream | None = None,
        fill_stream: FillStream | None = None,
    ) -> None:
        if queue_size < 1:
            raise ValueError(f"queue_size must be at least 1, not {queue_size}")
        self.model_info = describe(model)
        self._model, self._tokenizer = model, tokenizer
        self._stream = stream or _default_stream()
        self._fill_stream = fill_stream or _default_fill_stream()
        self._queue_size = queue_size
        self._jobs: dict[Reply, _Job] = {}
        self._waiting: deque[_Job] = deque()
        self._running: _Job | None = None
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

        from glm_model.loading import DEMO_MODEL, lead_or_follow, load

        if options.threads is not None:
            torch.set_num_threads(options.threads)
        folder = Path(options.model) if options.model else DEMO_MODEL
        model, tokenizer = load(folder, options=options.loading())
        if not lead_or_follow(model, tokenizer):
            raise SystemExit  # rank 0 has served its users
        return cls(model, tokenizer, queue_size=options.queue_size)

    # Methods for any thread.

    def submit(self, messages: Sequence[Message], sampling: SamplingOptions) -> Reply:
        """Queue a conversation whose last message is the user's, and return the reply.

        Raises:
            QueueFull: `queue_size` requests are waiting already.
            EngineClosed: the engine has been closed.
            ConversationError: there is no message, the last one is not the user's, or one is malformed.
        """
        run = partial(self._generate, messages=_check_prompt(messages), sampling=self._within_context(sampling))
        return self._enqueue(run)

    def fill(self, text: str, options: FillOptions) -> Reply:
        """Queue a text with blanks to fill, and return the reply: `Filling` events, then `Filled` and `Finished`.

        Raises:
            QueueFull, EngineClosed: as for `submit`.
        """
        return self._enqueue(partial(self._fill, text=text, options=self._within_context(options)))

    def _enqueue(self, run: Callable[[_Job], Finished]) -> Reply:
        job = _Job(Reply(self._cancel), run)
        with self._changed:
            if self._closed:
                raise EngineClosed("the model has been shut down; start the program again")
            if len(self._waiting) >= self._queue_size:
                raise QueueFull(f"{self._queue_size} answers are waiting already; please try again in a moment")
            self._jobs[job.reply] = job
            self._waiting.append(job)
            self._announce(start=len(self._waiting) - 1)
            self._changed.notify()
        return job.reply

    def _within_context(self, options: _LimitedOptions) -> _LimitedOptions:
        most = self.model_info.context_length
        return options if options.max_length <= most else replace(options, max_length=most)

    def close(self) -> None:
        """Stop the running answer within one token, end the waiting requests, and wait until the worker has ended."""
        with self._changed:
            self._closed = True
            if self._running is not None:
                self._running.cancelled = True
            while self._waiting:
                self._end(self._waiting.popleft(), Failed("The program is shutting down.", "closed"))
            self._changed.notify()
        if threading.current_thread() is not self._worker:
            self._worker.join()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _cancel(self, reply: Reply) -> None:
        with self._changed:
            job = self._jobs.get(reply)
            if job is None:
                return
            job.cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)
                self._end(job, Finished("cancelled", 0, 0))
                self._announce()

    def _announce(self, start: int = 0) -> None:
        """Send its position to each waiting request from index `start` on. The caller holds the lock."""
        ahead = 0 if self._running is None else 1
        for index in range(start, len(self._waiting)):
            if index + ahead > 0:
                self._waiting[index].reply.send(Queued(index + ahead))

    def _end(self, job: _Job, event: Finished | Failed) -> None:
        self._jobs.pop(job.reply, None)
        job.reply.send(event)

    # Methods of the worker thread.

    def _work(self) -> None:
        while (job := self._next()) is not None:
            event = self._answer(job)
            with self._changed:
                self._running = None
                self._end(job, event)

    def _next(self) -> _Job | None:
        """Wait for the next job and return it, None if the engine is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            if self._closed:
                return None
            self._running = self._waiting.popleft()
            self._announce()
            return self._running

    def _answer(self, job: _Job) -> Finished | Failed:
        """Run a job and return its last event. Every exception becomes a `Failed` event, so that the worker goes on."""
        try:
            return job.run(job)
        except _Refused as error:
            return error.failed
        except GLMError as error:
            logger.warning("an answer was refused: %s", error)
            return Failed(str(error))
        except Exception as error:
            logger.exception("the model failed while answering")
            return _failure(error)

    def _generate(self, job: _Job, messages: list[Message], sampling: SamplingOptions) -> Finished:
        job.reply.send(Text(""))
        prompt = self._prompt(job, messages, sampling.max_length)
        answer_tokens = 0
        chunks = self._stream(self._model, self._tokenizer, prompt, sampling, job.is_cancelled)
        with contextlib.closing(chunks):  # type: ignore[type-var]
            for chunk in chunks:
                answer_tokens = chunk.token_count
                if chunk.text:
                    job.reply.send(Text(chunk.text))
                if chunk.finish_reason is not None:
                    return Finished(chunk.finish_reason, len(prompt), answer_tokens)
                if job.cancelled:
                    break
        return Finished("cancelled" if job.cancelled else "stop", len(prompt), answer_tokens)

    def _fill(self, job: _Job, text: str, options: FillOptions) -> Finished:
        from glm_model.blank_filling import FillError

        job.reply.send(Text(""))
        try:
            result = self._filled(job, text, options)
        except FillError as error:
            raise _Refused(Failed(str(error), error.kind, error.count, error.limit)) from error
        except UnsupportedError as error:
            raise _Refused(Failed(str(error), "unknown_mask")) from error
        job.reply.send(Filled(result))
        return _finished(result)

    def _filled(self, job: _Job, text: str, options: FillOptions) -> FillResult:
        for step in self._fill_stream(self._model, self._tokenizer, text, options, should_stop=job.is_cancelled):
            if step.result is not None:
                return step.result
            job.reply.send(Filling(step))
        raise AssertionError("the last step has the result")

    def _prompt(self, job: _Job, messages: list[Message], max_length: int) -> list[int]:
        """Return the ids of the conversation, trimmed by the rules above, and send `Trimmed` if rounds were dropped."""
        encoded: dict[int, list[int]] = {}  # by number of messages; one of the counted texts is usually the prompt

        def count_tokens(messages: list[Message]) -> int:
            encoded[len(messages)] = self._encode(messages)
            return len(encoded[len(messages)])

        kept, dropped = trim(messages, count_tokens, max_length - answer_room(max_length))
        prompt = encoded.get(len(kept)) or self._encode(kept)
        limit = max_length - min(LEAST_ANSWER, answer_room(max_length))
        if len(prompt) > limit:
            may_grow = max_length < self.model_info.context_length
            raise _Refused(_too_long(len(prompt), limit, may_grow))
        if dropped:
            job.reply.send(Trimmed(dropped))
        return prompt

    def _encode(self, messages: list[Message]) -> list[int]:
        return list(
            self._tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=False)
        )


def _default_stream() -> Stream:
    from glm_model.generation.stream import stream_text

    return stream_text


def _default_fill_stream() -> FillStream:
    from glm_model.blank_filling import stream_blanks

    return stream_blanks


def _too_long(tokens: int, limit: int, may_grow: bool) -> Failed:
    remedy = f"Shorten it{' or raise the maximum length' if may_grow else ''}."
    message = f"This message is too long: {tokens} tokens, where at most {limit} fit. {remedy}"
    return Failed(message, "too_long", tokens, limit)


def _finished(result: FillResult) -> Finished:
    """Return the last event of a filled text: cancelled or cut if one of its blanks was."""
    best = [blank.answers[0] for blank in result.blanks]
    was_stopped = any(answer.finish_reason == "cancelled" for answer in result.blanks[-1].answers)
    was_cut = any(answer.finish_reason == "length" for answer in best)
    reason: FinishReason = "cancelled" if was_stopped else "length" if was_cut else "stop"
    return Finished(reason, len(result.blanks[0].prompt_ids), sum(len(answer.token_ids) for answer in best))


def _check_prompt(messages: Sequence[Message]) -> list[Message]:
    checked = check_messages(messages)
    if not checked or checked[-1]["role"] != "user":
        raise ConversationError("the last message of a conversation to answer must be the user's")
    return checked


def _failure(error: Exception) -> Failed:
    """Return the event for an unexpected exception. Its text may contain paths, so only the log has it."""
    if _is_out_of_memory(error):
        return Failed(
            "The machine ran out of memory for this answer. Start a new conversation, shorten the message "
            "or lower the maximum length.",
            "memory",
        )
    return Failed(f"The model failed while answering ({type(error).__name__}). The log says more.")


def _is_out_of_memory(error: Exception) -> bool:
    # torch raises OutOfMemoryError for accelerators and a bare RuntimeError from its CPU allocator.
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in text
        or "not enough memory" in text
    )


def describe(model: Any) -> ModelInfo:
    """Return the properties of a loaded model, from its configuration and parameters."""
    config = model.config
    bits = getattr(config, "quantization_bit", 0)
    return ModelInfo(
        name=Path(getattr(config, "name_or_path", "") or type(model).__name__).resolve().name,
        is_demo=bool(getattr(config, "is_demo", False)),
        device=str(model.device),
        parameters=model.num_parameters(),
        quantization=f"int{bits}" if bits else None,
        context_length=int(getattr(config, "max_sequence_length", 2048)),
        kernel=_kernel(model) if bits else None,
    )


def _kernel(model: Any) -> str | None:
    from glm_model.loading import kernel_in_use

    return kernel_in_use(model)
