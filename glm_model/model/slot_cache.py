"""Keep the keys and values of rows in slots of one tensor, so that a step of all has fixed addresses and shapes."""

import torch
from torch import Tensor
from transformers.cache_utils import Cache


class SlotStep(Cache):
    """The cache of a step in which the rows of the first slots take a token each.

    Args:
        states: the tensor of these slots, [slots, layers, keys and values, heads, capacity, head_dim].
        width: the number of columns that the attention reads.
        index: the column to which each row writes its token, LongTensor [slots]. A row that takes no part writes to the
            last column, which no row reads.
    """

    def __init__(self, states: Tensor, width: int, index: Tensor) -> None:
        super().__init__(layers=[])
        self._states, self._width, self._index = states, width, index
        self._slots = torch.arange(len(states), device=states.device)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write a token of each row, [slots, heads, 1, head_dim], and return all columns that are read."""
        keys, values = self._states[:, layer_idx].unbind(1)
        for states, new in ((keys, key_states), (values, value_states)):
            states[self._slots, :, self._index] = new[:, :, 0].to(states.dtype)
        return (
            keys[:, :, : self._width].to(key_states.dtype),
            values[:, :, : self._width].to(value_states.dtype),
        )

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of columns in front of a new token; it is only asked whether there are any."""
        return self._width - 1

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Return how many keys a mask of a new token covers, and the place of the first of them."""
        return self._width, 0
