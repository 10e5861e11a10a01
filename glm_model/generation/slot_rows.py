"""Run the steps of rows on a GPU, each as one CUDA graph for its number of rows.

A graph has fixed addresses and shapes; :mod:`.cuda_graphs` says why it is needed. So the rows have slots in one tensor
that is allocated once. A row takes the lowest free slot and stays there: nothing is copied when another one joins or
leaves. A step runs all slots up to the highest one in use, rounded up to 1, 2, 4, ... rows; those that take no part
write where nobody reads. A graph is recorded when its number of rows and its width are needed for the first time.
"""

import heapq
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import GLMError
from ..model.decoder import GLMForCausalLM
from ..model.row_cache import RowCache
from ..model.slot_cache import SlotStep
from .cuda_graphs import aligned, is_whole_on_one_gpu, recorded_if_possible
from .row_passes import CachedRows, prefix_tokens, register_rows

WIDTH_STEP = 512
"""Columns by which the widths of steps differ. The attention of a step reads all of them in every row."""


class SlotRows(CachedRows):
    """The rows of a model in slots of one tensor.

    Args:
        model: a model for which :func:`.cuda_graphs.is_whole_on_one_gpu` is true.
        slots: the most rows.
        longest: the most tokens of each.
    """

    def __init__(self, model: GLMForCausalLM, slots: int, longest: int) -> None:
        super().__init__(model)
        self.most_rows: int = slots
        heads, width = int(model.config.num_attention_heads), int(model.config.hidden_size)
        # One more column, to which the rows write that take no part in a step.
        capacity = aligned(prefix_tokens(model) + longest + 1)
        shape = (slots, int(model.config.num_layers), 2, heads, capacity, width // heads)
        self._dtype = model.model.activation_dtype
        with torch.inference_mode():
            # Zeros, because an unused column may be read, and 0 * NaN would be NaN.
            self._states = torch.zeros(shape, dtype=model.runtime.cache_dtype or self._dtype, device=model.device)
        self._free = list(range(slots))
        self._slots: dict[int, int] = {}
        self._steps: dict[tuple[int, int], _SlotPass] = {}

    def step(self, rows: list[int], ids: list[list[int]], positions: list[Any]) -> Tensor:
        """Add tokens to rows; see :meth:`.row_passes.CachedRows.step`."""
        if len(ids[0]) > 1:
            return super().step(rows, ids, positions)
        slots, caches = [self._slots[row] for row in rows], [self._caches[row] for row in rows]
        lengths = [cache.get_seq_length() for cache in caches]
        with torch.inference_mode():
            logits = self._pass_for(max(slots) + 1, max(lengths) + 1)(slots, ids, positions, lengths)
        for cache in caches:
            cache.extend()
        return logits[slots]

    def drop(self, row: int) -> None:
        """Free the slot of a row."""
        super().drop(row)
        if row in self._slots:
            heapq.heappush(self._free, self._slots.pop(row))

    def _new_cache(self, row: int, capacity: int) -> RowCache:
        if not self._free:
            raise GLMError(
                f"there is no place for another row: {self.most_rows} rows of {self._states.shape[-2] - 1} tokens fit "
                "into the memory of the cache. Use fewer beams, or raise --max-rows and --cache-gb."
            )
        slot = self._slots[row] = heapq.heappop(self._free)
        return RowCache(self._states.shape[-2] - 1, states=self._states[slot])

    def _pass_for(self, rows: int, width: int) -> "_SlotPass":
        rows = min(1 << (rows - 1).bit_length(), self.most_rows)
        width = min(-(-width // WIDTH_STEP) * WIDTH_STEP, self._states.shape[-2])
        if (rows, width) not in self._steps:
            self._steps[rows, width] = _SlotPass(self._model, self._states[:rows], width, self._dtype)
        return self._steps[rows, width]


class _SlotPass:
    """The forward pass of the first slots for one width, recorded after its first call.

    Args:
        model: the model.
        states: of these slots; see :class:`~glm_model.model.slot_cache.SlotStep`.
        width: the number of columns that are read.
        dtype: of the activations.
    """

    def __init__(self, model: GLMForCausalLM, states: Tensor, width: int, dtype: torch.dtype) -> None:
        self._model = model
        count, device = len(states), model.device
        self._nowhere = states.shape[-2] - 1
        self._no_position: list[Any] = [[0], [0]] if model.config.position_encoding_2d else [0]
        self._ids = torch.zeros(count, 1, dtype=torch.long, device=device)
        self._positions = torch.tensor([self._no_position] * count, device=device)
        self._index = torch.zeros(count, dtype=torch.long, device=device)
        self._columns = torch.arange(width, device=device)
        self._lowest = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=device)
        self._cache = SlotStep(states, width, self._index)
        self._run: Callable[[], Tensor] | None = None

    def __call__(self, slots: list[int], ids: list[list[int]], positions: list[Any], lengths: list[int]) -> Tensor:
        """Return the logits [slots, 1, vocab], which the next call overwrites.

        Args:
            slots: of the rows that take a token.
            ids, positions: see :meth:`SlotRows.step`.
            lengths: the number of tokens that each row has.
        """
        count = len(self._ids)
        all_ids, all_positions, index = [[0]] * count, [self._no_position] * count, [self._nowhere] * count
        for slot, tokens, places, length in zip(slots, ids, positions, lengths, strict=True):
            all_ids[slot], all_positions[slot], index[slot] = tokens, places, length
        self._ids.copy_(torch.tensor(all_ids))
        self._positions.copy_(torch.tensor(all_positions))
        self._index.copy_(torch.tensor(index))
        if self._run is not None:
            return self._run()
        # The first call runs without a graph: kernels are compiled and tuned in it, which a recording does not allow.
        logits = self._forward().clone()
        may_record = self._model.runtime.cuda_graphs and self._model.device.type == "cuda"
        self._run = recorded_if_possible(self._forward) if may_record else self._forward
        return logits

    def _forward(self) -> Tensor:
        mask = torch.where(self._columns <= self._index[:, None], 0, self._lowest)
        logits: Tensor = self._model(
            self._ids,
            attention_mask=mask[:, None, None],
            position_ids=self._positions,
            cache=self._cache,
            use_cache=True,
            logits_to_keep=0,
        ).logits
        return logits


register_rows(is_whole_on_one_gpu, SlotRows)
