"""A cache whose tokens stay where they are: transformers' ``DynamicCache`` copies all of them for each new one.

With ChatGLM-6B in float32 that is a gigabyte read and written per token at 512 tokens of context, more than a third of
the packed INT4 weights.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

LEAST_ROOM = 64  # tokens
SHARED_BYTES = 64 << 20  # of a tensor that layers share: glibc gives up to 32 MB a place among all others


class RoomyLayer(DynamicLayer):
    """Keys and values of one layer, [batch, heads, length, head_dim], as views of the front of larger tensors.

    New tokens are written behind them. Whatever puts other tensors in their place (beams that change order, rows that
    are chosen) needs to know nothing of that: the next tokens then move into new rooms. So they do with each token
    while gradients are enabled, for nothing is overwritten then.

    Args:
        dtype: to store them in; None is what they come in. They come out in the dtype of the newest ones, and a
            prompt's own attention sees them unrounded.
    """

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.stored_dtype = dtype
        self._rooms: Any = ()
        self._in_rooms: tuple[Tensor, ...] = ()  # the keys and values that lie in them

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Empty keys and values, of the shape and on the device of those to come."""
        self.dtype, self.device = self.stored_dtype or key_states.dtype, key_states.device
        self.keys = key_states[:, :, :0].to(self.dtype)
        self.values = value_states[:, :, :0].to(self.dtype)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write new tokens; returns the keys and values of all."""
        if not self.is_initialized or (self.device != key_states.device and not self.get_seq_length()):
            self.lazy_initialization(key_states, value_states)
        old = self.keys.shape[-2]
        for room, states in zip(self.extend(key_states.shape[-2]), (key_states, value_states), strict=True):
            room[:, :, old : self.keys.shape[-2]] = states
        if old == 0:
            return key_states, value_states
        return self.keys.to(key_states.dtype), self.values.to(value_states.dtype)

    def move_into(self, rooms: tuple[Tensor, Tensor]) -> None:
        """Begin, without tokens, in these rooms for keys and values."""
        self.lazy_initialization(*rooms)
        self._rooms = rooms
        self._settle(0)

    def extend(self, count: int) -> tuple[Tensor, Tensor]:
        """Count so many new tokens in; returns the rooms of keys and values, where the caller writes them."""
        length = self.keys.shape[-2] + count
        if not self._lies_in_rooms or length > self._rooms[0].shape[-2] or not _may_be_written_to(self._rooms[0]):
            self._rooms = (_with_room(self.keys, length), _with_room(self.values, length))
        self._settle(length)
        return self._rooms

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the newest tokens; a negative number, as in transformers."""
        in_rooms = self._lies_in_rooms
        super().crop(tokens_to_remove)
        if in_rooms:
            self._settle(self.keys.shape[-2])

    def reset(self) -> None:
        """Forget all tokens."""
        super().reset()
        self._rooms, self._in_rooms = (), ()

    @property
    def _lies_in_rooms(self) -> bool:
        return bool(self._in_rooms) and self.keys is self._in_rooms[0] and self.values is self._in_rooms[1]

    def _settle(self, length: int) -> None:
        self.keys, self.values = self._in_rooms = tuple(room[:, :, :length] for room in self._rooms)


def _may_be_written_to(room: Tensor) -> bool:
    """Autograd needs what it has seen as it was, and lets nobody but inference mode write to what that has made."""
    return not torch.is_grad_enabled() and (torch.is_inference_mode_enabled() or not room.is_inference())


def _with_room(states: Tensor, length: int) -> Tensor:
    """``states`` at the front of a tensor for a quarter more than ``length`` tokens: a token moves five times or so."""
    batch, heads, old, width = states.shape
    room = states.new_empty(batch, heads, _room_for(length), width)
    room[:, :, :old] = states
    return room


def _room_for(length: int) -> int:
    return length + max(LEAST_ROOM, length // 4)


class RoomyCache(DynamicCache):
    """A ``DynamicCache`` of :class:`RoomyLayer`.

    Args:
        dtype: see there.
    """

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.layer_class_to_replicate = partial(RoomyLayer, dtype)
        self._dtype = dtype
        self._expected_layers = 0

    def expect(self, layers: int) -> None:
        """On a CPU, let the first tokens of so many layers lie in few large tensors, made when the first ones come.

        The system takes those back when they are freed. Two small ones for each layer, made among the large tensors
        that come and go while a prompt is read, leave holes that the C library (glibc before 2.38) hardly fills again:
        0.1 GB for a prompt of 512 tokens, and as much for the next one.
        """
        self._expected_layers = layers

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """As that of ``DynamicCache``."""
        if not self.layers and key_states.device.type == "cpu":
            self._make_layers(key_states)
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def _make_layers(self, states: Tensor) -> None:
        batch, heads, length, width = states.shape
        self.layers = [self.layer_class_to_replicate() for _ in range(self._expected_layers)]
        rooms = states.new_empty(2, batch, heads, _room_for(length), width, dtype=self._dtype, device="meta")
        sharing = -(-SHARED_BYTES // max(rooms.nbytes, 1))  # no more: a tensor lives until its last layer outgrows it
        for first in range(0, len(self.layers), sharing):
            some = self.layers[first : first + sharing]
            shared = torch.empty(len(some), *rooms.shape, dtype=rooms.dtype, device=states.device)
            for layer, (keys, values) in zip(some, shared, strict=True):
                # With .data autograd knows that what is written into one leaves the others alone.
                layer.move_into((keys.data, values.data))


def new_cache(device: torch.device, dtype: torch.dtype | None = None) -> DynamicCache:
    """The better cache to begin with on this device, to store keys and values in ``dtype``."""
    if dtype is None:
        # GPUs copy a cache in no time and reserve memory in ways of their own; autograd wants nothing overwritten.
        in_place = device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if not in_place:
            return DynamicCache()
    return RoomyCache(dtype)
