"""Write many answers at once: their steps share a forward pass, and prompts are computed between the steps.

A prompt is computed layer by layer, because GLM's context is bidirectional and cannot be cut by tokens. After each step
the oldest waiting prompt gets ``PROMPT_SHARE`` times as long as the step took, and at least one layer, so that a long
prompt slows the others down and never stops them.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..kernels.native import find_in_background
from ..model.decoder import GLMForCausalLM
from .passes import DecodingBatch
from .requests import Insert, Interrupted, Request, Step, Writer
from .row_passes import Result, RowPasses, cached_rows, rows_can_join

logger = logging.getLogger(__name__)

PROMPT_SHARE = 2.0
"""How many times as long as the steps prompts are computed, while both are waiting."""


@dataclass(frozen=True)
class Ended:
    """The end of a member.

    Attributes:
        value: what its writer returned.
        error: the exception that ended it; None if the writer ended by itself.
    """

    value: object = None
    error: Exception | None = None


class Member:
    """A writer that takes part in a batch.

    Attributes:
        writer: the writer.
        request: what it has asked for; None if it has written something and is to go on.
    """

    def __init__(self, writer: Writer[Any, Any]) -> None:
        self.writer = writer
        self.request: Request | None = None

    @property
    def is_waiting_for_prompt(self) -> bool:
        """Whether its prompt has not been computed yet."""
        return isinstance(self.request, Insert)


class Batch:
    """The writers that one model works for.

    Args:
        model: the model, in evaluation mode. On several ranks, that of rank 0.
        most_rows: the most rows on a GPU, whose memory is allocated at once. On a CPU there is no limit.
        longest: the most tokens of a row on a GPU; None is what the model was trained for.
        kept_tokens: see :class:`.row_passes.RowPasses`.

    Attributes:
        joins: whether the rows of several writers share a pass. Otherwise only one writer should be inserted at a time.
    """

    def __init__(
        self, model: GLMForCausalLM, most_rows: int = 1, longest: int | None = None, kept_tokens: int = 0
    ) -> None:
        self.joins = rows_can_join(model)
        self._rows = RowPasses(model, cached_rows(model, most_rows, longest), kept_tokens)
        self._alone = DecodingBatch(model)
        self._members: dict[Member, None] = {}
        self._prompts: list[Member] = []

    def __len__(self) -> int:
        return len(self._members)

    @property
    def tokens(self) -> int:
        """The number of tokens whose keys and values are in memory."""
        return self._rows.tokens

    def keep_at_most(self, tokens: int) -> None:
        """Limit the kept contexts to so many tokens in all."""
        self._rows.kept_tokens = tokens

    def insert(self, writer: Writer[Any, Any]) -> Member:
        """Let a writer join."""
        member = Member(writer)
        self._members[member] = None
        if self.joins and len(self._members) > 1:
            find_in_background()
        return member

    def remove(self, member: Member) -> None:
        """Close the writer of a member, which leaves at once."""
        self._members.pop(member, None)
        if member in self._prompts:
            self._prompts.remove(member)
        try:
            member.writer.close()
        except Exception:  # concerns nobody else
            logger.exception("an answer could not be cleaned up")

    def interrupt(self, member: Member) -> Iterator[tuple[Member, Any]]:
        """End a member that waits for its prompt. Yield as :meth:`turn` does; the error is :class:`Interrupted`."""
        self._prompts.remove(member)
        yield from self._send(member, Interrupted())

    def turn(self) -> Iterator[tuple[Member, Any]]:
        """Take one step of all members, then compute some of the oldest prompt.

        Yields:
            A member and what it has written, or :class:`Ended`, which is its last.
        """
        for member in list(self._members):
            if member.request is None:
                yield from self._send(member, None)
        started = time.monotonic()
        stepping = [member for member in self._members if isinstance(member.request, Step)]
        if stepping:
            yield from self._step(stepping)
        yield from self._compute_prompts(PROMPT_SHARE * (time.monotonic() - started) if stepping else 0.0)

    def _send(self, member: Member, result: Result | None) -> Iterator[tuple[Member, Any]]:
        """Send a writer a result or an error, and note its next request or yield what it has written."""
        if member not in self._members:  # removed meanwhile
            return
        try:
            item = member.writer.throw(result) if isinstance(result, Exception) else member.writer.send(result)
        except StopIteration as end:
            self.remove(member)
            yield member, Ended(end.value)
        except Exception as error:
            self.remove(member)
            yield member, Ended(error=error)
        else:
            member.request = item if isinstance(item, Insert | Step) else None
            if isinstance(item, Insert):
                self._prompts.append(member)
            elif member.request is None:
                yield member, item

    def _step(self, members: list[Member]) -> Iterator[tuple[Member, Any]]:
        steps = [member.request for member in members if isinstance(member.request, Step)]
        try:
            results = self._rows.step(steps) if self.joins else [self._alone.execute(step) for step in steps]
        except Exception as error:
            for member in members:
                yield from self._fail(member, error)
            self._rows.drop_kept()  # some layers may have the keys and values of more tokens than others
            return
        for member, result in zip(members, results, strict=True):
            yield from self._send(member, result)

    def _compute_prompts(self, seconds: float) -> Iterator[tuple[Member, Any]]:
        """Compute the oldest prompts for so long, and at least one layer."""
        until = time.monotonic() + seconds
        while self._prompts:
            member = self._prompts[0]
            try:
                result = self._compute_some(member)
            except Exception as error:
                yield from self._fail(member, error)
            else:
                if result is not None:
                    yield from self._send(member, result)
            if time.monotonic() >= until:
                return

    def _compute_some(self, member: Member) -> Result | None:
        """Compute a layer of a prompt. The member's request is the step after the prompt when it is done."""
        insert = member.request
        assert isinstance(insert, Insert)
        if not self.joins:
            self._prompts.remove(member)
            return self._alone.execute(insert)
        is_done = self._rows.advance(insert) if hasattr(insert, "rows") else self._rows.begin(insert)
        if is_done:
            self._prompts.remove(member)
            member.request = self._rows.first_step(insert)
        return None

    def _fail(self, member: Member, error: Exception) -> Iterator[tuple[Member, Any]]:
        if member in self._members:
            self.remove(member)
            yield member, Ended(error=error)
