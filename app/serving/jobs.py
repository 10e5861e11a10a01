"""Turn one request into a writer, and what the writer yields into the events of its reply.

The jobs run on the engine's worker. They trim conversations by the same rules for every front-end:

- The prompt and the answer together have at most `max_length` tokens, and never more than the model was trained for
  (`ModelInfo.context_length`), since its output degrades beyond that.
- The oldest rounds are dropped until `answer_room(max_length)` tokens are free for the answer.
- If the last message alone does not fit then, it may use that room too, except for `LEAST_ANSWER` tokens. A still
  longer message is refused, with its length, the limit and the remedy.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from glm_model.errors import FillError, GLMError, UnsupportedError

from .conversation import Message, trim
from .reply import Failed, Filled, Filling, Finished, FinishReason, Reply, Text, Timing, Trimmed

if TYPE_CHECKING:
    from glm_model.blank_filling import FillOptions, FillResult, FillStep
    from glm_model.generation.requests import Writer
    from glm_model.generation.stream import TextChunk
    from glm_model.options import SamplingOptions

logger = logging.getLogger(__name__)

LEAST_ANSWER = 16  # tokens that must remain for the answer even after the longest message

TextWriter = Callable[..., "Writer[TextChunk, None]"]
"""Takes (model, tokenizer, prompt_ids, options, should_stop); see glm_model.generation.stream.write_text."""

FillWriter = Callable[..., "Writer[FillStep, None]"]
"""Takes (model, tokenizer, text, options, should_stop=...); see glm_model.blank_filling.write_blanks."""


def answer_room(max_length: int) -> int:
    """Return the number of tokens that trimming keeps free for the answer: a quarter of the length, at most 512."""
    return min(512, max_length // 4)


class Refused(Exception):  # noqa: N818
    """The internal signal that a request is refused; it carries the `Failed` event with the reason."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.message)
        self.failed = failed


class Job:
    """A request in the queue or in the batch.

    Args:
        reply: where its events go.
        rows: the number of rows that it decodes.
        tokens: the most tokens of all its rows together.
        owner: who asked; None if that is not known.

    Attributes:
        is_cancelled: whether somebody has stopped it.
        position: the place in the queue that its user was last told; 0 for none.
    """

    def __init__(self, reply: Reply, rows: int, tokens: int, owner: Hashable | None) -> None:
        self.reply = reply
        self.rows, self.tokens, self.owner = rows, tokens, owner
        self.is_cancelled = False
        self.position = 0
        self.prompt_tokens = self.answer_tokens = 0
        self._arrived = time.monotonic()
        self._begun = self._first = 0.0

    def begin(self) -> Writer[Any, None]:
        """Return the writer of the request. Tell its user that the waiting has ended.

        Raises:
            Refused, GLMError: the request cannot be answered; the message is for the user.
        """
        self._begun = time.monotonic()
        self.reply.send(Text(""))
        return self.writer()

    def writer(self) -> Writer[Any, None]:
        """Return the writer of the request; see `begin`."""
        raise NotImplementedError

    def deliver(self, written: Any) -> Finished | None:
        """Send the events of something that the writer has yielded; return the last event instead of sending it."""
        raise NotImplementedError

    def count(self, answer_tokens: int) -> None:
        """Note the number of tokens of the answer so far, and the time of the first one."""
        if answer_tokens and not self._first:
            self._first = time.monotonic()
        self.answer_tokens = answer_tokens

    def finished(self, reason: FinishReason) -> Finished:
        """Return the last event of an answer that has ended for this reason."""
        now = time.monotonic()
        begun = self._begun or now
        timing = Timing(begun - self._arrived, (self._first or now) - self._arrived, now - (self._first or now))
        return Finished(reason, self.prompt_tokens, self.answer_tokens, timing)

    def stop(self) -> bool:
        """Return whether somebody has stopped the request; for a writer."""
        return self.is_cancelled


class ChatJob(Job):
    """A conversation to answer.

    Args:
        write: makes the writer.
        model, tokenizer: its first arguments.
        messages: the conversation, whose last message is the user's.
        sampling: within the model's context.
        context_length: of the model.
        reply, owner: see `Job`.
    """

    def __init__(
        self,
        write: TextWriter,
        model: Any,
        tokenizer: Any,
        messages: list[Message],
        sampling: SamplingOptions,
        context_length: int,
        reply: Reply,
        owner: Hashable | None,
    ) -> None:
        super().__init__(reply, 1, sampling.max_length, owner)
        self._write, self._model, self._tokenizer = write, model, tokenizer
        self._messages, self._sampling, self._context_length = messages, sampling, context_length

    def writer(self) -> Writer[TextChunk, None]:
        prompt = self._prompt()
        self.prompt_tokens = len(prompt)
        return self._write(self._model, self._tokenizer, prompt, self._sampling, self.stop)

    def deliver(self, written: TextChunk) -> Finished | None:
        self.count(written.token_count)
        if written.text:
            self.reply.send(Text(written.text))
        if written.finish_reason is not None:
            return self.finished(written.finish_reason)
        return self.finished("cancelled") if self.is_cancelled else None

    def _prompt(self) -> list[int]:
        """Return the ids of the conversation, trimmed by the rules above, and send `Trimmed` if rounds were dropped."""
        max_length = self._sampling.max_length
        encoded: dict[int, list[int]] = {}  # by number of messages; one of the counted texts is usually the prompt

        def count_tokens(messages: list[Message]) -> int:
            encoded[len(messages)] = encode(self._tokenizer, messages)
            return len(encoded[len(messages)])

        kept, dropped = trim(self._messages, count_tokens, max_length - answer_room(max_length))
        prompt = encoded.get(len(kept)) or encode(self._tokenizer, kept)
        limit = max_length - min(LEAST_ANSWER, answer_room(max_length))
        if len(prompt) > limit:
            raise Refused(_too_long(len(prompt), limit, max_length < self._context_length))
        if dropped:
            self.reply.send(Trimmed(dropped))
        return prompt


class FillJob(Job):
    """A text whose blanks are to be filled.

    Args:
        write: makes the writer.
        model, tokenizer: its first arguments.
        text: the text.
        options: within the model's context.
        reply, owner: see `Job`.
    """

    def __init__(
        self,
        write: FillWriter,
        model: Any,
        tokenizer: Any,
        text: str,
        options: FillOptions,
        reply: Reply,
        owner: Hashable | None,
    ) -> None:
        rows = options.num_beams if options.strategy == "beam_search" else 1
        super().__init__(reply, rows, rows * options.max_length, owner)
        self._write, self._model, self._tokenizer = write, model, tokenizer
        self._text, self._options = text, options

    def writer(self) -> Writer[FillStep, None]:
        return self._write(self._model, self._tokenizer, self._text, self._options, should_stop=self.stop)

    def deliver(self, written: FillStep) -> Finished | None:
        if written.result is None:
            self.count(self.answer_tokens + 1)
            self.reply.send(Filling(written))
            return None
        self.reply.send(Filled(written.result))
        return self._finished(written.result, are_all=written.blank + 1 == written.count)

    def _finished(self, result: FillResult, are_all: bool) -> Finished:
        """Return the last event of a filled text: cancelled or cut if one of its blanks was."""
        best = [blank.answers[0] for blank in result.blanks]
        was_stopped = any(answer.finish_reason == "cancelled" for answer in result.blanks[-1].answers)
        was_stopped |= self.is_cancelled and not are_all
        was_cut = any(answer.finish_reason == "length" for answer in best)
        self.prompt_tokens = len(result.blanks[0].prompt_ids)
        self.count(sum(len(answer.token_ids) for answer in best))
        return self.finished("cancelled" if was_stopped else "length" if was_cut else "stop")


def encode(tokenizer: Any, messages: list[Message]) -> list[int]:
    """Return the ids of a conversation's prompt."""
    return list(tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=False))


def failure(error: Exception) -> Failed:
    """Return the last event for an exception, and log it.

    The text of an unexpected one may contain paths, so that only the log has it.
    """
    if isinstance(error, Refused):
        return error.failed
    if isinstance(error, GLMError):
        logger.warning("an answer was refused: %s", error)
        if isinstance(error, FillError):
            return Failed(str(error), error.kind, error.count, error.limit)
        return Failed(str(error), "unknown_mask" if isinstance(error, UnsupportedError) else "error")
    logger.error("the model failed while answering", exc_info=error)
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


def _too_long(tokens: int, limit: int, may_grow: bool) -> Failed:
    remedy = f"Shorten it{' or raise the maximum length' if may_grow else ''}."
    message = f"This message is too long: {tokens} tokens, where at most {limit} fit. {remedy}"
    return Failed(message, "too_long", tokens, limit)
