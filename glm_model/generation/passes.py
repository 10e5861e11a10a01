"""Run forward passes of whole prompts and their steps: rows are inserted, grow step by step, and are removed.

The rows of a group have one length and share a cache. :mod:`.row_passes` handles rows of different lengths.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from ..model.configuration import GLMConfig
from ..model.kv_cache import new_cache
from ..model.runtime import Runtime
from .requests import Insert, Request


class CausalModel(Protocol):
    """The part of a model that decoding uses; :class:`~glm_model.model.decoder.GLMForCausalLM` has it."""

    config: GLMConfig
    runtime: Runtime

    @property
    def device(self) -> torch.device:
        """The device of ids and logits."""

    def __call__(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None,
        position_ids: Tensor,
        cache: Cache | None,
        use_cache: bool,
        logits_to_keep: int,
    ) -> CausalLMOutputWithPast:
        """Return the logits of the last ``logits_to_keep`` tokens (0: of all), and add the tokens to the cache."""


Step = Callable[[Tensor, Tensor], Tensor]
"""One forward pass of one row: (new ids [1, n], their positions) -> logits [1, n, vocab]."""

StepMaker = Callable[[CausalModel, Cache, int], Step | None]
"""A function that may replace the forward passes of one row by faster ones: (model, cache with the prompt, longest text
in tokens) -> the step for one new token, or None if it cannot."""

_step_makers: list[StepMaker] = []


def register_step_maker(maker: StepMaker) -> None:
    """Let ``maker`` make the steps of every row that is decoded alone; the first maker with a result is used."""
    _step_makers.append(maker)


class Rows:
    """Rows that were inserted together: one answer, the beams of a search, or prompts padded to one length.

    They share a cache and get the same number of tokens in each step.

    Attributes:
        position_ids: see :class:`.requests.Rows`.
        length: number of tokens in the cache, padding included.
    """

    has_company = False

    def __init__(self, batch: "DecodingBatch", count: int, position_ids: Tensor, padding: Tensor | None = None) -> None:
        self._batch = batch
        self._count = count
        self.position_ids = position_ids
        self.length = 0
        self._padding = padding  # 0/1 [rows, prompt], None where nothing is padded
        self._cache: Cache | None = None
        self._step: Step | None = None
        self._is_shared = False  # whether the cache belongs to the caller

    def __len__(self) -> int:
        return self._count

    def select(self, rows: list[int]) -> None:
        """Keep these rows in this order; beam search may list a row several times or leave it out."""
        assert self._cache is not None
        index = torch.tensor(rows, device=self.position_ids.device)
        self._cache.batch_select_indices(index)
        self._count = len(rows)
        if len(self.position_ids) > 1:
            self.position_ids = self.position_ids[index]
        if self._padding is not None:
            self._padding = self._padding[index]

    def forget(self, count: int) -> None:
        """Remove the newest ``count`` tokens from the cache."""
        if count:
            assert self._cache is not None
            self._cache.crop(-count)
            self.length -= count

    def leave(self) -> None:
        """Remove the rows from their batch."""
        self._batch.remove(self)

    def mask(self, new: int) -> Tensor | None:
        """Return the 0/1 mask [rows, length + new], or None if no row is padded."""
        if self._padding is None:
            return None
        return F.pad(self._padding, (0, self.length + new - self._padding.shape[1]), value=1)


class DecodingBatch:
    """Groups of rows that one model decodes. They join by ``insert``, grow by ``step`` and leave by ``remove``."""

    def __init__(self, model: CausalModel) -> None:
        self._model = model
        self._rows: set[Rows] = set()

    @torch.no_grad()
    def insert(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        cache: Cache | None = None,
        quick_steps: bool = False,
    ) -> tuple[Rows, Tensor]:
        """Add rows: run the forward pass of their prompts.

        Args:
            input_ids: LongTensor [rows, length], including ``<sop>``, padded in front.
            position_ids: positions of prompt and answer, [rows, 2, longest] or (GLM-130B) [rows, longest].
            attention_mask: 0/1 [rows, length], 0 for padding; or bool [1, 1, length, length], True = masked; None if
                the mask is to be derived from the ids.
            cache: a cache of the caller, which may hold the beginning of the prompt and which the caller can use
                afterwards; None makes a new one.
            quick_steps: whether a single row may use a registered :data:`StepMaker`. Its steps support neither
                ``Rows.forget`` nor ``Rows.select``.

        Returns:
            The new rows, and the logits [rows, vocab] of their first tokens.
        """
        is_padded = attention_mask is not None and attention_mask.ndim == 2 and not bool(attention_mask.all())
        rows = Rows(self, len(input_ids), position_ids, attention_mask if is_padded else None)
        if cache is None:
            rows._cache = new_cache(self._model.device, self._model.runtime.cache_dtype)
        else:
            rows._cache, rows._is_shared, rows.length = cache, True, int(cache.get_seq_length())
        logits = self._forward(rows, input_ids[:, rows.length :], attention_mask, 1)
        rows.length = input_ids.shape[1]
        if quick_steps and cache is None and len(input_ids) == 1:
            makers = (maker(self._model, rows._cache, position_ids.shape[-1]) for maker in _step_makers)
            rows._step = next((step for step in makers if step is not None), None)
        self._rows.add(rows)
        return rows, logits[:, -1]

    def step(self, inputs: Mapping[Rows, Tensor]) -> dict[Rows, Tensor]:
        """Add tokens to groups of rows, each in a forward pass of its own.

        Args:
            inputs: the ids to add, LongTensor [rows, n], for each group of rows.

        Returns:
            The logits [rows, n, vocab] for each group of rows.
        """
        return {rows: self._grow(rows, input_ids) for rows, input_ids in inputs.items()}

    def execute(self, request: Request) -> Tensor:
        """Run what a writer asks for, and return the logits [rows, n, vocab]."""
        if isinstance(request, Insert):
            request.rows, logits = self.insert(
                request.ids,
                request.position_ids,
                request.attention_mask,
                cache=request.cache,
                quick_steps=not request.may_take_back,
            )
            return logits[:, None]
        assert isinstance(request.rows, Rows)
        return self._grow(request.rows, torch.tensor(request.tokens, device=self._model.device))

    def remove(self, rows: Rows) -> None:
        """Remove rows and free their cache."""
        self._rows.discard(rows)
        rows._cache = rows._step = None

    def __len__(self) -> int:
        return len(self._rows)

    def _grow(self, rows: Rows, input_ids: Tensor) -> Tensor:
        new = input_ids.shape[1]
        # Inference mode saves a small model a tenth of its time. Its tensors cannot be changed in place outside of it,
        # so it is not used for a cache that belongs to the caller.
        with torch.no_grad() if rows._is_shared else torch.inference_mode():
            if rows._step is not None:
                logits = rows._step(input_ids, rows.position_ids[..., rows.length : rows.length + new])
            else:
                logits = self._forward(rows, input_ids, rows.mask(new), 0)
        rows.length += new
        return logits

    def _forward(self, rows: Rows, input_ids: Tensor, attention_mask: Tensor | None, logits_to_keep: int) -> Tensor:
        positions = rows.position_ids[..., rows.length : rows.length + input_ids.shape[1]]
        output = self._model(
            input_ids,
            attention_mask=attention_mask,
            position_ids=positions.expand(len(input_ids), *positions.shape[1:]),
            cache=rows._cache,
            use_cache=True,
            logits_to_keep=logits_to_keep,
        )
        logits: Tensor = output.logits
        return logits
