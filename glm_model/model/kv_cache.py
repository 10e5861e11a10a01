"""Keep keys and values in a cache that grows in place.

transformers' ``DynamicCache`` copies all of its tokens for each new one. With ChatGLM-6B in float32 that is a gigabyte
read and written per token at 512 tokens of context, more than a third of the packed INT4 weights.
"""

from functools import partial

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

LEAST_SPARE = 64
"""The least number of free tokens that a new buffer has behind those it was made for."""

SHARED_BYTES = 64 << 20
"""Bytes of a tensor that layers share; glibc takes smaller ones, up to 32 MB, from its common heap."""


class GrowingLayer(DynamicLayer):
    """Keys and values of one layer, [batch, heads, length, head_dim], as views of the front of larger tensors.

    New tokens are written behind them. Other code may replace ``keys`` and ``values`` (to reorder beams or to select
    rows): the next tokens are then written into new buffers. So is each token while gradients are enabled, because
    autograd needs the tensors that it has recorded unchanged.

    Args:
        dtype: the dtype to store keys and values in; None is the dtype that they are given in. They are returned in the
            dtype of the newest ones, and the attention of a prompt sees its own keys and values unrounded.
    """

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.stored_dtype = dtype
        self._buffers: tuple[Tensor, ...] = ()
        self._in_buffers: tuple[Tensor, ...] = ()  # the keys and values that lie in them

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make empty keys and values that fit the given ones in shape, device and, by default, dtype."""
        self.dtype, self.device = self.stored_dtype or key_states.dtype, key_states.device
        self.keys = key_states[:, :, :0].to(self.dtype)
        self.values = value_states[:, :, :0].to(self.dtype)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write new tokens, and return the keys and values of all tokens."""
        if not self.is_initialized or (self.device != key_states.device and not self.get_seq_length()):
            self.lazy_initialization(key_states, value_states)
        old = self.keys.shape[-2]
        for buffer, states in zip(self.extend(key_states.shape[-2]), (key_states, value_states), strict=True):
            buffer[:, :, old : self.keys.shape[-2]] = states
        if old == 0:
            return key_states, value_states
        return self.keys.to(key_states.dtype), self.values.to(value_states.dtype)

    def move_into(self, buffers: tuple[Tensor, Tensor]) -> None:
        """Start without tokens in these buffers of keys and values, each [batch, heads, capacity, head_dim]."""
        self.lazy_initialization(*buffers)
        self._buffers = buffers
        self._settle(0)

    def extend(self, count: int) -> tuple[Tensor, Tensor]:
        """Add ``count`` tokens, and return the buffers of keys and values, into which the caller writes them."""
        length = self.keys.shape[-2] + count
        if not self._lies_in_buffers or length > self._buffers[0].shape[-2] or not _may_be_written_to(self._buffers[0]):
            self._buffers = (_with_spare(self.keys, length), _with_spare(self.values, length))
        self._settle(length)
        keys, values = self._buffers
        return keys, values

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the newest tokens; ``tokens_to_remove`` is negative, as in transformers."""
        in_buffers = self._lies_in_buffers
        super().crop(tokens_to_remove)
        if in_buffers:
            self._settle(self.keys.shape[-2])

    def reset(self) -> None:
        """Remove all tokens."""
        super().reset()
        self._buffers, self._in_buffers = (), ()

    @property
    def _lies_in_buffers(self) -> bool:
        return bool(self._in_buffers) and self.keys is self._in_buffers[0] and self.values is self._in_buffers[1]

    def _settle(self, length: int) -> None:
        self.keys, self.values = self._in_buffers = tuple(buffer[:, :, :length] for buffer in self._buffers)


def _may_be_written_to(buffer: Tensor) -> bool:
    """Return whether a tensor may be changed in place.

    It may not while gradients are enabled, because autograd needs the tensors that it has recorded unchanged. A tensor
    that was made in inference mode may be changed only in that mode.
    """
    return not torch.is_grad_enabled() and (torch.is_inference_mode_enabled() or not buffer.is_inference())


def _with_spare(states: Tensor, length: int) -> Tensor:
    """Return a tensor that begins with ``states`` and has room for a quarter more than ``length`` tokens.

    With this growth a token of a long text is copied about five times in all.
    """
    batch, heads, old, width = states.shape
    buffer = states.new_empty(batch, heads, _capacity_for(length), width)
    buffer[:, :, :old] = states
    return buffer


def _capacity_for(length: int) -> int:
    return length + max(LEAST_SPARE, length // 4)


class GrowingCache(DynamicCache):
    """A ``DynamicCache`` of :class:`GrowingLayer`.

    Args:
        dtype: of the stored keys and values; None is that of the first ones.
    """

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.layer_class_to_replicate = partial(GrowingLayer, dtype)
        self._dtype = dtype
        self._expected_layers = 0

    def expect(self, layers: int) -> None:
        """Set the number of layers that will write their first tokens; on a CPU they then share few large tensors.

        Large tensors go back to the system when they are freed. Two small tensors per layer, allocated between the
        temporary tensors of the prompt's forward pass, leave holes in the heap that the C library (glibc before 2.38)
        hardly uses again: 0.1 GB for a prompt of 512 tokens, and as much for the next one.
        """
        self._expected_layers = layers

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write new tokens of a layer, and return the keys and values of all its tokens."""
        if not self.layers and key_states.device.type == "cpu":
            self._make_layers(key_states)
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def _make_layers(self, states: Tensor) -> None:
        batch, heads, length, width = states.shape
        self.layers = [self.layer_class_to_replicate() for _ in range(self._expected_layers)]
        pair = states.new_empty(2, batch, heads, _capacity_for(length), width, dtype=self._dtype, device="meta")
        # No more layers than needed share a tensor: it stays in memory until the last of them has outgrown it.
        sharing = -(-SHARED_BYTES // max(pair.nbytes, 1))
        for first in range(0, len(self.layers), sharing):
            some = self.layers[first : first + sharing]
            shared = torch.empty(len(some), *pair.shape, dtype=pair.dtype, device=states.device)
            for layer, (keys, values) in zip(some, shared, strict=True):
                # Through .data each layer's view gets a version counter of its own: a write into one does not count as
                # a change of the others for autograd.
                layer.move_into((keys.data, values.data))


def new_cache(device: torch.device, dtype: torch.dtype | None = None) -> DynamicCache:
    """Return an empty cache of the kind that suits a device.

    Args:
        device: the device of the model.
        dtype: the dtype to store keys and values in; None is that of the activations.
    """
    if dtype is None:
        # A GPU copies a cache fast and PyTorch reuses its memory. With gradients autograd forbids writing in place.
        in_place = device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if not in_place:
            return DynamicCache()
    return GrowingCache(dtype)
