"""Keep the keys and values of single rows, so that rows of any lengths take a step together without padding or mask."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache


class RowCache(Cache):
    """The keys and values of one row, in one tensor that is as large from the beginning as the row can become.

    The memory of a CPU's tensor is taken from the system when it is written to, so a short row of a large capacity
    needs no more than a short row. Nothing is copied as the row grows, nor when other rows join or leave.

    The trained prefix of a P-Tuning model is stored in front of the tokens, and counts as some of them.

    Args:
        capacity: the most tokens of the row.
        dtype: the dtype to store keys and values in; None is that of the first ones. They are returned in the dtype of
            the newest ones, and the attention of a prompt sees its own keys and values unrounded.
        states: the tensor to use; None makes one when the first tokens come.

    Attributes:
        states: [layers, keys and values, heads, capacity, head_dim].
    """

    def __init__(self, capacity: int, dtype: torch.dtype | None = None, states: Tensor | None = None) -> None:
        super().__init__(layers=[])
        self.capacity = capacity
        self.states = states
        self._dtype = dtype
        self._lengths: list[int] = []

    def expect(self, layers: int) -> None:
        """Set the number of layers that will write tokens; to be called before the first of them does."""
        self._lengths = [0] * layers

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write new tokens of a layer, [1, heads, new, head_dim], and return the keys and values of all its tokens."""
        if self.states is None:
            _, heads, _, width = key_states.shape
            shape = (len(self._lengths), 2, heads, self.capacity, width)
            self.states = key_states.new_empty(shape, dtype=self._dtype or key_states.dtype)
        old = self._lengths[layer_idx]
        new = self._lengths[layer_idx] = old + key_states.shape[-2]
        stored = self.states[layer_idx, :, :, :new]
        stored[0, :, old:], stored[1, :, old:] = key_states[0], value_states[0]
        if old == 0:
            return key_states, value_states
        keys, values = stored.to(key_states.dtype)[:, None]
        return keys, values

    def take(self, source: "RowCache", length: int) -> None:
        """Copy the first ``length`` tokens of another cache into this empty one."""
        assert source.states is not None
        layers, pair, heads, _, width = source.states.shape
        if self.states is None:
            self.states = source.states.new_empty(layers, pair, heads, self.capacity, width)
        self.states[:, :, :, :length] = source.states[:, :, :, :length]
        self._lengths = [length] * layers

    def extend(self) -> None:
        """Count one more token in every layer, which the caller writes into ``states``."""
        self._lengths = [length + 1 for length in self._lengths]

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the newest tokens; ``tokens_to_remove`` is negative, as in transformers."""
        self._lengths = [length + tokens_to_remove for length in self._lengths]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of tokens that a layer has."""
        return self._lengths[layer_idx] if self._lengths else 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Return how many keys a mask of these new tokens covers, and the place of the first of them."""
        return self.get_seq_length(layer_idx) + query_length, 0

    def __len__(self) -> int:
        return len(self._lengths)


class RowCaches(Cache):
    """The caches of the rows that take a step together, passed to a model as its cache.

    Row ``i`` of the batch is one new token that sees the tokens of ``caches[i]`` and itself. The caches stay those of
    their owners: a row joins or leaves by being in the next step or not.

    Args:
        caches: one cache for each row, each with its prompt in it.

    Attributes:
        native_step: what :mod:`.native_rows` keeps from one layer of a step to the next.
    """

    def __init__(self, caches: Sequence[RowCache]) -> None:
        super().__init__(layers=[])
        self.caches = list(caches)
        self.native_step: object = None

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of tokens of the longest row."""
        return max(cache.get_seq_length(layer_idx) for cache in self.caches)
