"""Describe the keys and values of rows to csrc/, and compute the attention of rows of different lengths there.

The library reads and writes the caches where they are. :mod:`.native_step` computes all layers of a packed model in one
call. The layers of other models are computed by torch, whose attention takes rows of one length only, or a mask and
padding; :func:`attend` computes theirs.
"""

from ctypes import POINTER, byref, c_void_p, cast
from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels import native, structures
from .attention import GLMAttention, register_row_attention
from .row_cache import RowCaches


@dataclass(frozen=True)
class Places:
    """Where the keys and values of the sequences of a step are, each with room for one more token.

    Args:
        lengths: of each sequence, without the new token.
        numbers: the fields of a :class:`.structures.KeysAndValues` for each layer and sequence: int64, contiguous,
            [layers * sequences * 3].
        dtype: of all keys and values.
    """

    lengths: list[int]
    numbers: Tensor
    dtype: torch.dtype


def takes(rows: RowCaches, heads: structures.Heads, layers: int) -> bool:
    """Return whether the library takes these caches: on the CPU, with tokens in so many layers, of one dtype."""
    states = [cache.states for cache in rows.caches if cache.states is not None]
    if len(states) < len(rows.caches) or len({tensor.dtype for tensor in states}) > 1:
        return False
    shapes = {(*tensor.shape[:3], tensor.shape[4]) for tensor in states}
    return (
        shapes == {(layers, 2, heads.heads, heads.head_dim)}
        and all(tensor.device.type == "cpu" and tensor.dtype in native.TYPES for tensor in states)
        and all(0 < cache.get_seq_length() < cache.capacity for cache in rows.caches)
    )


def make_room(rows: RowCaches) -> Places:
    """Count one more token of each row, and return the places, to which the library writes it."""
    lengths = [cache.get_seq_length() for cache in rows.caches]
    states = [cache.states for cache in rows.caches if cache.states is not None]
    for cache in rows.caches:
        cache.extend()
    size, layers = states[0].element_size(), torch.arange(len(states[0]))[:, None]
    start, layer, values, head = torch.tensor([(tensor.data_ptr(), *tensor.stride()[:3]) for tensor in states]).T
    keys = start + layers * layer * size
    numbers = torch.stack([keys, keys + values * size, head.expand_as(keys)], dim=-1)
    return Places(lengths, numbers.flatten(), states[0].dtype)


def describe(cos: Tensor, sin: Tensor, places: Places) -> structures.Step:
    """Return the step of these sequences as the library reads it; the tensors must outlive it.

    Args:
        cos, sin: float32, contiguous, [batch, 1, 1, 1, position rows, dim].
        places: of the sequences.
    """
    batch = len(places.lengths)
    sequences = (structures.Sequence * batch)(*map(structures.Sequence, places.lengths))
    numbers = cast(c_void_p(places.numbers.data_ptr()), POINTER(structures.KeysAndValues))
    return structures.Step(batch, cos.data_ptr(), sin.data_ptr(), sequences, numbers, native.TYPES[places.dtype])


@dataclass(frozen=True)
class _Begun:
    """A step that some layers have taken, and what it points into."""

    step: structures.Step
    owners: tuple[object, ...]


def attend(
    attention: GLMAttention, fused: Tensor, position_embeddings: tuple[Tensor, Tensor], rows: RowCaches
) -> Tensor | None:
    """Return the context of one new token of each row, or None if torch has to compute it.

    The first layer of a step decides for all of them.

    Args:
        attention: the attention layer.
        fused: queries, keys and values, [rows, 1, 3 * hidden].
        position_embeddings: cosines and sines, each [rows, 1, 1, 1, position rows, dim].
        rows: the caches of the rows.

    Returns:
        [rows, 1, hidden], or None.

    Raises:
        MemoryError: there is not enough memory for the step.
    """
    heads = structures.Heads(fused.shape[-1] // (3 * attention.head_dim), attention.head_dim, attention.rows)
    if attention.cache_idx == 0:
        rows.native_step = _begin(fused, heads, position_embeddings, rows)
    if not isinstance(rows.native_step, _Begun):
        return None
    fused = fused.contiguous()
    context = fused.new_empty(len(fused), 1, heads.heads * heads.head_dim)
    arguments = (byref(heads), byref(rows.native_step.step), attention.cache_idx, fused.data_ptr(), context.data_ptr())
    if native.found().attend(*arguments, torch.get_num_threads()):
        raise MemoryError(f"not enough memory for the attention of {len(fused)} sequences")
    return context


def _begin(
    fused: Tensor, heads: structures.Heads, position_embeddings: tuple[Tensor, Tensor], rows: RowCaches
) -> _Begun | None:
    if fused.dtype != torch.float32 or torch.is_grad_enabled() or not native.is_loaded():
        return None
    if not takes(rows, heads, len(rows.caches[0])):
        return None
    cos, sin = (part.expand(len(fused), *part.shape[1:]).contiguous() for part in position_embeddings)
    places = make_room(rows)
    return _Begun(describe(cos, sin, places), (cos, sin, places))


register_row_attention(attend)
