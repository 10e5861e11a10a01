"""Run the forward passes of rows of different lengths: prompts layer by layer, and common steps without padding.

Every row has a :class:`~glm_model.model.row_cache.RowCache`. A row's context is computed without ``<sop>``, which it
must not see, and so without any mask; ``<sop>`` is the row's first token in a step.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import GLMError
from ..model.decoder import GLMForCausalLM
from ..model.row_cache import RowCache, RowCaches
from .requests import Insert, Request, Step
from .row_sampling import RowSampler, choose_tokens
from .sampling import NOT_FINITE

Result = Tensor | int | Exception
"""What a step gives its writer: logits [rows, n, vocab], or the token that its sampler has chosen, or the error of its
sampler; a GLMError if the logits are NaN or infinite."""


def token_bytes(model: GLMForCausalLM) -> int:
    """Return the bytes that the keys and values of one token take in all layers; on several ranks, of all of them."""
    config, dtype = model.config, model.runtime.cache_dtype or model.model.activation_dtype
    return 2 * int(config.num_layers) * int(config.hidden_size) * dtype.itemsize


def prefix_tokens(model: GLMForCausalLM) -> int:
    """Return the number of tokens of a model's P-Tuning prefix, which every row begins with."""
    encoder = model.model.prefix
    return 0 if encoder is None else encoder.embedding.num_embeddings


class CachedRows:
    """The caches of rows by number, and the passes of the model that use them.

    Several ranks that hold a model together do all of this in the same order: the first one tells the others.

    Attributes:
        most_rows: the largest number of rows.
    """

    most_rows: float = math.inf

    def __init__(self, model: GLMForCausalLM) -> None:
        self._model = model
        self._caches: dict[int, RowCache] = {}
        self._contexts: dict[int, Iterator[None]] = {}

    def begin(self, row: int, ids: Tensor, position_ids: Tensor, capacity: int) -> None:
        """Begin a row with a context, whose layers :meth:`advance` computes.

        Args:
            row: the number of the row.
            ids: LongTensor [1, length].
            position_ids: [1, 2, length] or (GLM-130B) [1, length].
            capacity: the most tokens of the row.
        """
        decoder, device = self._model.model, self._model.device
        cache = self._caches[row] = self._new_cache(row, capacity)
        self._contexts[row] = decoder.context_layers(ids.to(device), position_ids.to(device), cache)

    def is_full(self) -> bool:
        """Return whether there is no place for another row."""
        return len(self._caches) >= self.most_rows

    def _new_cache(self, row: int, capacity: int) -> RowCache:
        return RowCache(prefix_tokens(self._model) + capacity, self._model.runtime.cache_dtype)

    def advance(self, row: int) -> bool:
        """Compute one more layer of a context, and return whether it was the last; all layers in a pipeline.

        The stages of a pipeline send each other hidden states in the order of the passes, so that no other pass can
        come between the layers.
        """
        world = self._model.runtime.world
        while True:
            with torch.inference_mode():
                is_last = next(self._contexts[row], True) is True
            if is_last:
                del self._contexts[row]
            if is_last or world is None or not world.has_stages:
                return is_last

    def step(self, rows: list[int], ids: list[list[int]], positions: list[Any]) -> Tensor:
        """Add tokens to rows in one pass, and return the logits [rows, n, vocab].

        Args:
            rows: their numbers.
            ids: the tokens of each row: one, or any number for a single row.
            positions: of these tokens, [rows][n] or (ChatGLM-6B) [rows][2][n].
        """
        caches, device = [self._caches[row] for row in rows], self._model.device
        logits: Tensor
        with torch.inference_mode():
            logits = self._model(
                torch.tensor(ids, device=device),
                position_ids=torch.tensor(positions, device=device),
                cache=RowCaches(caches) if len(ids[0]) == 1 else caches[0],
                use_cache=True,
            ).logits
        return logits

    def copy(self, row: int, new: int, length: int, capacity: int) -> None:
        """Begin a row of at most ``capacity`` tokens with the first ``length`` ones of another row."""
        with torch.inference_mode():
            cache = self._caches[new] = self._new_cache(new, capacity)
            cache.take(self._caches[row], prefix_tokens(self._model) + length)

    def crop(self, row: int, count: int) -> None:
        """Remove the newest ``count`` tokens of a row."""
        self._caches[row].crop(-count)

    def drop(self, row: int) -> None:
        """Free the memory of a row."""
        self._contexts.pop(row, None)
        self._caches.pop(row, None)


Takes = Callable[[GLMForCausalLM], bool]
RowsMaker = Callable[[GLMForCausalLM, int, int], CachedRows]
"""A function (model, most rows, most tokens of each) -> the caches of the model's rows."""

_makers: list[tuple[Takes, RowsMaker]] = []


def register_rows(takes: Takes, maker: RowsMaker) -> None:
    """Let ``maker`` make the caches of the rows of every model for which ``takes`` is true."""
    _makers.append((takes, maker))


def rows_can_join(model: GLMForCausalLM) -> bool:
    """Return whether the rows of a model can share a pass: all its weights are on the CPU, or all on one GPU."""
    on_cpu = {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    return on_cpu or any(takes(model) for takes, _ in _makers)


def cached_rows(model: GLMForCausalLM, most_rows: int, longest: int | None) -> CachedRows:
    """Return the caches of a model's rows; see :class:`.batch.Batch`."""
    maker = next((maker for takes, maker in _makers if takes(model)), None)
    return CachedRows(model) if maker is None else maker(model, most_rows, longest or model.config.max_sequence_length)


_numbers = itertools.count()
"""The numbers of rows, which no two rows share, whatever model they belong to."""


class JoinedRows:
    """The rows of one writer; see :class:`.requests.Rows`."""

    def __init__(self, passes: "RowPasses", position_ids: Tensor, length: int) -> None:
        self._passes = passes
        self.numbers = [next(_numbers)]
        self.position_ids = position_ids
        self.length = length

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def has_company(self) -> bool:
        """Whether other rows are decoded, too."""
        return self._passes.count > len(self.numbers)

    @property
    def position_ids(self) -> Tensor:
        """The positions, [rows or 1, 2, longest] or (GLM-130B) [rows or 1, longest]."""
        return self._position_ids

    @position_ids.setter
    def position_ids(self, position_ids: Tensor) -> None:
        self._position_ids = position_ids
        self._positions: list[Any] = position_ids.tolist()

    @property
    def capacity(self) -> int:
        """The most tokens of each row."""
        return self._position_ids.shape[-1]

    def next_positions(self, count: int) -> list[Any]:
        """Return the positions of the next ``count`` tokens of each row, [rows][count] or [rows][2][count]."""
        end = self.length + count
        if self._position_ids.ndim == 2:
            found = [row[self.length : end] for row in self._positions]
        else:
            found = [[part[self.length : end] for part in row] for row in self._positions]
        return found if len(found) == len(self.numbers) else found * len(self.numbers)

    def select(self, rows: list[int]) -> None:
        """Keep these rows in this order, some several times."""
        kept = [self.numbers[row] for row in rows]
        for number in set(self.numbers) - set(kept):
            self._passes.drop(number)  # first, because a copy may need its place
        self.numbers = list(set(kept))
        for place, number in enumerate(kept):
            if number in kept[:place]:
                kept[place] = self._passes.copy(number, self)
                self.numbers.append(kept[place])  # so that it is dropped, should the next copy fail
        self.numbers = kept
        if len(self._position_ids) > 1:
            self.position_ids = self._position_ids[rows]

    def forget(self, count: int) -> None:
        """Remove the newest ``count`` tokens."""
        if count:
            for number in self.numbers:
                self._passes.crop(number, count)
            self.length -= count

    def leave(self) -> None:
        """Free the memory of the rows, or keep their context for the next prompt that is equal."""
        self._passes.leave(self)


class RowPasses:
    """Executes what writers ask for, with a cache for each row.

    Args:
        model: the model.
        cached: the caches of its rows.
        kept_tokens: the number of tokens to keep for contexts after their rows have left. A prompt with an equal
            context does not compute it again. The memory of the answer stays with the context, and counts.

    Attributes:
        kept_tokens: can be changed; contexts beyond it are dropped, the oldest first.
    """

    def __init__(self, model: GLMForCausalLM, cached: CachedRows, kept_tokens: int = 0) -> None:
        self._leader = model.runtime.leader
        self._cached = cached
        self._contexts: dict[JoinedRows, tuple[int, ...]] = {}
        self._unfinished: set[JoinedRows] = set()  # whose contexts are not whole, or not to be trusted
        # The number of the row and its tokens, by its context; the oldest first.
        self._kept: dict[tuple[int, ...], tuple[int, int]] = {}
        self._kept_tokens = kept_tokens

    @property
    def count(self) -> int:
        """The number of rows."""
        return sum(map(len, self._contexts))

    @property
    def tokens(self) -> int:
        """The number of tokens of all rows and kept contexts."""
        return sum(rows.length * len(rows) for rows in self._contexts) + self._tokens_of_kept()

    @property
    def kept_tokens(self) -> int:
        """The largest number of tokens of kept contexts."""
        return self._kept_tokens

    @kept_tokens.setter
    def kept_tokens(self, most: int) -> None:
        self._kept_tokens = most
        while self._kept and self._tokens_of_kept() > most:
            self._drop_oldest_kept()

    def _tokens_of_kept(self) -> int:
        return sum(tokens for _, tokens in self._kept.values())

    def drop_kept(self) -> None:
        """Drop all kept contexts."""
        while self._kept:
            self._drop_oldest_kept()

    def _drop_oldest_kept(self) -> None:
        number, _ = self._kept.pop(next(iter(self._kept)))
        self.drop(number)

    def begin(self, insert: Insert) -> bool:
        """Begin rows with a prompt, and return whether its context is known from other rows or was kept."""
        context = tuple(insert.ids[0, : insert.context].tolist())
        self._row_with(context)  # now the newest of the kept ones
        self._make_room()
        source = self._row_with(context)
        rows = insert.rows = JoinedRows(self, insert.position_ids, insert.context)
        self._contexts[rows] = context
        (number,) = rows.numbers
        self._unfinished.add(rows)
        if source is not None:
            self._call("copy", source, number, len(context), rows.capacity)
            self._unfinished.discard(rows)
            return True
        self._call(
            "begin",
            *(number, insert.ids[:, : insert.context], insert.position_ids[..., : insert.context], rows.capacity),
        )
        return False

    def advance(self, insert: Insert) -> bool:
        """Compute one more layer of a prompt's context, and return whether it was the last."""
        assert isinstance(insert.rows, JoinedRows)
        (number,) = insert.rows.numbers
        is_last: bool = self._call("advance", number)
        if is_last:
            self._unfinished.discard(insert.rows)
        return is_last

    def first_step(self, insert: Insert) -> Step:
        """Return the step of the tokens that follow a prompt's context."""
        return Step(insert.rows, insert.ids[:, insert.context :].tolist(), insert.sampler)

    def step(self, steps: Sequence[Step]) -> list[Result]:
        """Take steps, and return their results; all that add one token share a pass."""
        together = [step for step in steps if len(step.tokens[0]) == 1]
        others = [[step] for step in steps if len(step.tokens[0]) > 1]
        results: dict[Step, Result] = {}
        for group in [together, *others] if together else others:
            results.update(zip(group, self._pass(group), strict=True))
        return [results[step] for step in steps]

    def _pass(self, steps: Sequence[Step]) -> list[Result]:
        count = len(steps[0].tokens[0])
        rows = [step.rows for step in steps if isinstance(step.rows, JoinedRows)]
        logits: Tensor = self._call(
            "step",
            [number for each in rows for number in each.numbers],
            [ids for step in steps for ids in step.tokens],
            [positions for each in rows for positions in each.next_positions(count)],
        )
        for each in rows:
            each.length += count
        results: list[Result] = list(logits.split([len(each) for each in rows]))
        chosen = [(place, step.sampler) for place, step in enumerate(steps) if step.sampler is not None]
        if chosen:
            newest = logits if len(chosen) == len(logits) else torch.cat([results[place] for place, _ in chosen])  # type: ignore[misc]
            tokens = _choose(newest[:, -1], [sampler for _, sampler in chosen])
            for (place, _), token in zip(chosen, tokens, strict=True):
                results[place] = token
                if isinstance(token, Exception):
                    self._unfinished.add(rows[place])
        return results

    def execute(self, request: Request) -> Result:
        """Run what one writer asks for, from begin to end."""
        if isinstance(request, Insert):
            is_known = self.begin(request)
            while not is_known:
                is_known = self.advance(request)
            request = self.first_step(request)
        return self.step([request])[0]

    def leave(self, rows: JoinedRows) -> None:
        """Remove rows; see :meth:`JoinedRows.leave`."""
        context = self._contexts.pop(rows, None)
        if context is None:
            return
        is_kept = rows not in self._unfinished and context not in self._kept and rows.length <= self._kept_tokens
        self._unfinished.discard(rows)
        if is_kept:
            self.crop(rows.numbers[0], rows.length - len(context))
            self._kept[context] = rows.numbers[0], rows.length
        for number in rows.numbers[is_kept:]:
            self.drop(number)
        self.kept_tokens = self._kept_tokens

    def copy(self, number: int, rows: JoinedRows) -> int:
        """Return the number of a copy of a row."""
        new = next(_numbers)
        self._make_room()
        self._call("copy", number, new, rows.length, rows.capacity)
        return new

    def crop(self, number: int, count: int) -> None:
        """Remove the newest ``count`` tokens of a row."""
        self._call("crop", number, count)

    def drop(self, number: int) -> None:
        """Free the memory of a row."""
        self._call("drop", number)

    def _make_room(self) -> None:
        if self._kept and self._cached.is_full():
            self._drop_oldest_kept()

    def _row_with(self, context: tuple[int, ...]) -> int | None:
        if context in self._kept:
            self._kept[context] = self._kept.pop(context)  # now the newest
            return self._kept[context][0]
        ready = (rows for rows in self._contexts if rows not in self._unfinished)
        return next((rows.numbers[0] for rows in ready if self._contexts[rows] == context), None)

    def _call(self, name: str, *arguments: Any) -> Any:
        if self._leader is not None:
            return self._leader.call(self._cached, name, arguments)
        return getattr(self._cached, name)(*arguments)


def _choose(logits: Tensor, samplers: list[RowSampler]) -> list[int | Exception]:
    """Return the token that each row [vocab] of logits chooses, or the error of its choice, which is no other row's."""
    try:
        tokens = choose_tokens(logits, samplers)
    except Exception as error:
        if len(samplers) == 1:
            return [error]
        return [_choose(row[None], [sampler])[0] for row, sampler in zip(logits, samplers, strict=True)]
    return [GLMError(NOT_FINITE) if token is None else token for token in tokens]
