"""Define how the writer of an answer asks for forward passes, so that one writer serves alone and among many.

A writer is a generator. It yields a request, :class:`Insert` or :class:`Step`, and is sent the result; in between it
yields what it has written. :func:`run` runs one writer by itself; :class:`.batch.Batch` runs many, whose steps share a
forward pass.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from torch import Tensor
from transformers.cache_utils import Cache

from .row_sampling import RowSampler

Written = TypeVar("Written")
Changed = TypeVar("Changed")
Returned = TypeVar("Returned")


class Rows(Protocol):
    """The rows of one writer: an answer, or the beams of a search.

    Attributes:
        position_ids: positions of prompt and answer, [rows or 1, 2, longest] or (GLM-130B) [rows or 1, longest]. The
            writer replaces them when a generated mask token moves the blank.
    """

    position_ids: Tensor

    def __len__(self) -> int: ...

    @property
    def has_company(self) -> bool:
        """Whether rows of other writers take part in the steps; guessing several tokens would hold them up."""

    def select(self, rows: list[int]) -> None:
        """Keep these rows in this order; beam search may list a row several times or leave it out."""

    def forget(self, count: int) -> None:
        """Remove the newest ``count`` tokens."""

    def leave(self) -> None:
        """Free the memory of the rows, which take no further steps."""


class Interrupted(Exception):  # noqa: N818 - like KeyboardInterrupt
    """Thrown into a writer whose prompt nobody wants any more; it may still say what it has written."""


@dataclass(eq=False)
class Insert:
    """A request to compute a prompt.

    The result is like that of a :class:`Step` with the last token of the prompt. ``rows`` is set then.

    Args:
        ids: the prompt, LongTensor [1, length], which is not padded.
        context: the number of its tokens in front of ``<sop>``, which see each other in both directions.
        position_ids: see :class:`Rows`.
        sampler: see :class:`Step`.
        attention_mask: the mask for a model that computes the prompt in one pass, as its forward method takes it; it
            says what ``context`` says.
        cache: a cache of the caller, which may hold the beginning of the prompt; only for :func:`run`.
        may_take_back: whether ``Rows.forget`` or ``Rows.select`` will be called.
    """

    ids: Tensor
    context: int
    position_ids: Tensor
    sampler: RowSampler | None = None
    attention_mask: Tensor | None = None
    cache: Cache | None = None
    may_take_back: bool = False
    rows: Rows = field(init=False)

    def leave(self) -> None:
        """Free the memory of the rows, if the prompt was begun."""
        if hasattr(self, "rows"):
            self.rows.leave()


@dataclass(eq=False)
class Step:
    """A request to add tokens to rows.

    The result is the next token of a single row, an int, if there is a sampler, else logits [rows, n, vocab].

    Args:
        rows: the rows that grow.
        tokens: the ids to add, [rows][n].
        sampler: chooses the next token, together with those of other rows.
    """

    rows: Rows
    tokens: list[list[int]]
    sampler: RowSampler | None = None


Request = Insert | Step
Writer = Generator[Request | Written, Any, Returned]


def changed(
    writer: Writer[Written, Returned], change: Callable[[Written], Changed]
) -> Generator[Request | Changed, Any, Returned]:
    """Yield the requests of a writer, and ``change`` of all else that it yields; return what it returns."""
    try:
        item = next(writer)
        while True:
            if isinstance(item, Insert | Step):
                item = writer.send((yield item))
            else:
                yield change(item)
                item = next(writer)
    except StopIteration as end:
        returned: Returned = end.value
        return returned
    finally:
        writer.close()
