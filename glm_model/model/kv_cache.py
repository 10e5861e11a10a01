"""A KV cache that grows in place: transformers' ``DynamicCache`` copies all of its tokens for each new one.

With ChatGLM-6B in float32 that is a gigabyte read and written per token at 512 tokens of context, more than a third of
the packed INT4 weights.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

LEAST_SPARE = 64
"""Tokens that a buffer has free behind those it was made for, at least."""

SHARED_BYTES = 64 << 20
"""Size of a tensor that layers share; glibc puts smaller ones, up to 32 MB, among all others."""


class GrowingLayer(DynamicLayer):
    """Keys and values of one layer, [batch, heads, length, head_dim], as views of the front of larger tensors.

    New tokens are written behind them. Other code may put other tensors in their place (beams that change order, rows
    that are selected): the next tokens are then written into new buffers. So is each token while gradients are enabled,
    because autograd needs what it has seen unchanged.

    Args:
        dtype: to store them in; None is what they come in. They come out in the dtype of the newest ones, and a
            prompt's own attention sees them unrounded.
    """

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.stored_dtype = dtype
        self._buffers: Any = ()
        self._in_buffers: tuple[Tensor, ...] = ()  # the keys and values that lie in them

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make empty keys and values, of the shape and on the device of those to come."""
        self.dtype, self.device = self.stored_dtype or key_states.dtype, key_states.device
        self.keys = key_states[:, :, :0].to(self.dtype)
        self.values = value_states[:, :, :0].to(self.dtype)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write new tokens, and return the keys and values of all."""
        if not self.is_initialized or (self.device != key_states.device and not self.get_seq_length()):
            self.lazy_initialization(key_states, value_states)
        old = self.keys.shape[-2]
        for buffer, states in zip(self.extend(key_states.shape[-2]), (key_states, value_states), strict=True):
            buffer[:, :, old : self.keys.shape[-2]] = states
        if old == 0:
            return key_states, value_states
        return self.keys.to(key_states.dtype), self.values.to(value_states.dtype)

    def move_into(self, buffers: tuple[Tensor, Tensor]) -> None:
        """Begin, without tokens, in these buffers for keys and values, each [batch, heads, capacity, head_dim]."""
        self.lazy_initialization(*buffers)
        self._buffers = buffers
        self._settle(0)

    def extend(self, count: int) -> tuple[Tensor, Tensor]:
        """Count so many new tokens in, and return the buffers of keys and values, where the caller writes them."""
        length = self.keys.shape[-2] + count
        if not self._lies_in_buffers or length > self._buffers[0].shape[-2] or not _may_be_written_to(self._buffers[0]):
            self._buffers = (_with_spare(self.keys, length), _with_spare(self.values, length))
        self._settle(length)
        return self._buffers

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the newest tokens; a negative number, as in transformers."""
        in_buffers = self._lies_in_buffers
        super().crop(tokens_to_remove)
        if in_buffers:
            self._settle(self.keys.shape[-2])

    def reset(self) -> None:
        """Forget all tokens."""
        super().reset()
        self._buffers, self._in_buffers = (), ()

    @property
    def _lies_in_buffers(self) -> bool:
        return bool(self._in_buffers) and self.keys is self._in_buffers[0] and self.values is self._in_buffers[1]

    def _settle(self, length: int) -> None:
        self.keys, self.values = self._in_buffers = tuple(buffer[:, :, :length] for buffer in self._buffers)


def _may_be_written_to(buffer: Tensor) -> bool:
    """Return whether a tensor may be changed in place.

    Not with gradients, because autograd needs what it has seen unchanged; a tensor of inference mode only in that mode.
    """
    return not torch.is_grad_enabled() and (torch.is_inference_mode_enabled() or not buffer.is_inference())


def _with_spare(states: Tensor, length: int) -> Tensor:
    """Return a tensor for a quarter more than ``length`` tokens that begins with ``states``.

    So a token of a long text is copied about five times in all.
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
        """On a CPU, put the first tokens of so many layers into few large tensors, made when the first ones come.

        The system takes large ones back when they are freed. Two small ones for each layer, made among the tensors that
        come and go while a prompt is read, leave holes that the C library (glibc before 2.38) hardly fills again:
        0.1 GB for a prompt of 512 tokens, and as much for the next one.
        """
        self._expected_layers = layers

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write new tokens of a layer, and return the keys and values of all its tokens."""
        if not self.layers and key_states.device.type == "cpu":
            self._make_layers(key_states)
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def _make_layers(self, states: Tensor) -> None:
        batch, heads, length, width = states.shape
        self.layers = [self.layer_class_to_replicate() for _ in range(self._expected_layers)]
        pair = states.new_empty(2, batch, heads, _capacity_for(length), width, dtype=self._dtype, device="meta")
        sharing = -(-SHARED_BYTES // max(pair.nbytes, 1))  # no more: a tensor lives until its last layer outgrows it
        for first in range(0, len(self.layers), sharing):
            some = self.layers[first : first + sharing]
            shared = torch.empty(len(some), *pair.shape, dtype=pair.dtype, device=states.device)
            for layer, (keys, values) in zip(some, shared, strict=True):
                # With .data autograd knows that what is written into one leaves the others alone.
                layer.move_into((keys.data, values.data))


def new_cache(device: torch.device, dtype: torch.dtype | None = None) -> DynamicCache:
    """Return an empty cache of the kind that suits a device.

    Args:
        device: of the model.
        dtype: to store keys and values in; None is that of the activations.
    """
    if dtype is None:
        # A GPU copies a cache fast and PyTorch reuses its memory; autograd allows nothing to be overwritten.
        in_place = device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if not in_place:
            return DynamicCache()
    return GrowingCache(dtype)
