"""A packed model's decoding step on the CPU in one call: ``csrc/decoder.h`` does what :mod:`.layers` does in torch.

At 50 GB/s a layer's INT4 weights are read in two milliseconds. The small operations between its products (norms, rotary
positions, cache, attention, activation) take half a millisecond in torch, because the weights have driven their code
and data from every cache; here they take a twentieth of that.

Taken only where nothing tells the difference: one new token of each sequence, float32, no hooks, no gradients.
Everything else is torch's, and the parameters and the cache stay where they are.

:func:`decode` takes sequences that share a cache, and so have one length; :func:`decode_rows` takes sequences of any
lengths, each with a cache of its own, without padding or mask.
"""

from collections.abc import Sequence
from ctypes import POINTER, Array, byref, c_int64, cast
from typing import TypeGuard
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..kernels import native, structures
from ..kernels.packing import packed_columns
from ..quantization.linear import QuantizedLinear
from .configuration import GLMConfig
from .decoder import register_fast_step
from .hooks import has_active_hooks
from .kv_cache import GrowingCache
from .layers import GLMDecoderLayer
from .norm import GLMLayerNorm

MOST_SEQUENCES = 16
"""With more, torch takes the step: beside so many rows' products, the operations between them cost little."""


def decode(
    layers: nn.ModuleList,
    config: GLMConfig,
    states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    mask: object,
    cache: object,
) -> Tensor | None:
    """Return what the layers make of one new token of each sequence, or None where torch has to do it.

    Args:
        layers: of the decoder, on the CPU.
        config: of the decoder.
        states: [batch, 1, hidden], the embeddings of the new tokens.
        position_embeddings: cosines and sines, each [batch, 1, 1, 1, rows, dim].
        mask: of the attention; only None or bool [batch, 1, 1, cached + 1], True where a token is seen.
        cache: gets the new tokens' keys and values; only a :class:`.GrowingCache` of all sequences.

    Raises:
        MemoryError: not enough for the step.
    """
    if not _is_a_step(config, states) or not isinstance(cache, GrowingCache):
        return None
    if not (mask is None or (isinstance(mask, Tensor) and mask.dtype == torch.bool)):
        return None
    decoder = _decoder_of(layers, config)
    cached = cache.get_seq_length()
    if decoder is None or not decoder.takes_cache(cache, len(states)):
        return None
    if mask is not None and mask.shape[1:] != (1, 1, cached + 1):
        return None
    visible = None if mask is None else mask.expand(len(states), -1, -1, -1).contiguous()
    return decoder.step(states, position_embeddings, [cache], visible)


def decode_rows(
    layers: nn.ModuleList,
    config: GLMConfig,
    states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    caches: Sequence[object],
) -> Tensor | None:
    """Return the same as :func:`decode` with a cache for each sequence: a new token sees its own cache and itself.

    Args:
        layers: of the decoder, on the CPU.
        config: of the decoder.
        states: [rows, 1, hidden].
        position_embeddings: cosines and sines, each [rows, 1, 1, 1, position rows, dim].
        caches: of each row one, of batch 1, of any length but 0; only instances of :class:`.GrowingCache`, all of one
            dtype.

    Raises:
        MemoryError: not enough for the step.
    """
    assert len(caches) == len(states) == len(set(map(id, caches))), "each row needs a cache of its own"
    if not caches or not _is_a_step(config, states):
        return None
    known = [cache for cache in caches if isinstance(cache, GrowingCache)]
    decoder = _decoder_of(layers, config)
    if decoder is None or len(known) < len(caches) or not all(decoder.takes_cache(cache, 1) for cache in known):
        return None
    if len({cache.layers[0].keys.dtype for cache in known}) > 1:
        return None
    return decoder.step(states, position_embeddings, known, None)


def _is_a_step(config: GLMConfig, states: Tensor) -> bool:
    return (
        bool(config.quantization_bit)
        and states.device.type == "cpu"
        and states.dtype == torch.float32
        and states.shape[1] == 1
        and len(states) <= MOST_SEQUENCES
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and native.is_usable()
    )


def _decoder_of(layers: nn.ModuleList, config: GLMConfig) -> "_NativeDecoder | None":
    """Return the description of these layers as they are now, or None if torch has to run them."""
    decoder = _decoders.get(layers)
    if decoder is None or decoder.is_stale():
        decoder = _decoders[layers] = _NativeDecoder(layers, config)
    return decoder if decoder.replaces_modules() else None


class _NativeDecoder:
    """The addresses of a model's parameters, and all that would make them the wrong thing to use."""

    def __init__(self, layers: nn.ModuleList, config: GLMConfig) -> None:
        self._config = config
        modules = [module for layer in layers for module in layer.modules()]
        self._dicts = [module.__dict__ for module in modules]
        self._linears = [module for module in modules if isinstance(module, QuantizedLinear)]
        self._links = [
            (names, name, value)
            for names in [
                layers._modules,
                *(d[kind] for d in self._dicts for kind in ("_parameters", "_modules")),
            ]
            for name, value in names.items()
        ]
        self._parameters = list(layers.parameters())
        self._state = self._current_state()
        plain = [layer for index, layer in enumerate(layers) if _is_plain(layer, index)]
        one_precision = len({linear.precision for linear in self._linears}) == 1
        self._decoder = _describe(plain) if len(plain) == len(layers) and one_precision else None

    def _current_state(self) -> list[object]:
        addresses = [parameter.data_ptr() for parameter in self._parameters]
        return [*addresses, *(linear.precision for linear in self._linears)]

    def is_stale(self) -> bool:
        """Return whether a parameter, a layer or its precision is another one than it was."""
        return self._current_state() != self._state or any(
            names.get(name) is not value for names, name, value in self._links
        )

    def replaces_modules(self) -> bool:
        """Return whether a native step does what calling the modules would do: no hook, no ``forward`` of another."""
        return (
            self._decoder is not None
            and self._config._attn_implementation == "sdpa"
            and not any("forward" in d for d in self._dicts)
            and not has_active_hooks(self._dicts)
        )

    def takes_cache(self, cache: GrowingCache, batch: int) -> bool:
        """Return whether a cache holds tokens of so many sequences, and all its shapes are as they must be."""
        assert self._decoder is not None
        heads, cached = self._decoder.heads, cache.get_seq_length()
        shape = (batch, heads.heads, cached, heads.head_dim)
        return (
            cached > 0
            and len(cache.layers) == self._decoder.count
            and all(layer.is_initialized and layer.keys.shape == shape for layer in cache.layers)
            and all(layer.device.type == "cpu" for layer in cache.layers)
        )

    def step(
        self,
        states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        caches: Sequence[GrowingCache],
        visible: Tensor | None,
    ) -> Tensor:
        """Run the step in the library; return what the last layer returns, [batch, 1, hidden].

        Args:
            states: [batch, 1, hidden].
            position_embeddings: see there.
            caches: one of all sequences, or one of each.
            visible: None, or of one cache, bool [batch, 1, 1, cached + 1], contiguous.
        """
        assert self._decoder is not None
        batch = len(states)
        cos, sin = (part.expand(batch, *part.shape[1:]).contiguous() for part in position_embeddings)
        lengths = [cache.get_seq_length() for cache in caches] * (batch // len(caches))
        sequences = [structures.Sequence(length) for length in lengths]
        if visible is not None:
            for row, sequence in enumerate(sequences):
                sequence.visible = visible.data_ptr() + row * (sequence.cached + 1)
        places, dtype = _extended(caches)
        step = structures.Step(
            *(batch, cos.data_ptr(), sin.data_ptr(), (structures.Sequence * batch)(*sequences)),
            *(cast(places, POINTER(structures.KeysAndValues)), native.TYPES[dtype]),
        )
        new = states.clone(memory_format=torch.contiguous_format)
        if native.found().decode(byref(self._decoder), byref(step), new.data_ptr(), torch.get_num_threads()):
            raise MemoryError(f"not enough memory for a step of {batch} sequences with up to {max(lengths)} tokens")
        return new


def _extended(caches: Sequence[GrowingCache]) -> tuple["Array[c_int64]", torch.dtype]:
    """Make room for one more token in every layer of every cache.

    Returns:
        The fields of a :class:`.structures.KeysAndValues` for each layer and sequence, as plain numbers, which are
        quicker to write than hundreds of structures; and the dtype of the keys and values.
    """
    numbers: list[int] = []
    for layers in zip(*(cache.layers for cache in caches), strict=True):
        for layer in layers:
            keys, values = layer.extend(1)
            assert keys.stride() == values.stride()
            assert keys.stride()[2:] == (keys.shape[3], 1)
            row, head = keys.stride()[:2]
            size, first_keys, first_values = keys.element_size() * row, keys.data_ptr(), values.data_ptr()
            for index in range(len(keys)):
                numbers += (first_keys + index * size, first_values + index * size, head)
    return (c_int64 * len(numbers))(*numbers), keys.dtype


_decoders: "WeakKeyDictionary[nn.ModuleList, _NativeDecoder]" = WeakKeyDictionary()


def _is_plain(layer: nn.Module, index: int) -> TypeGuard[GLMDecoderLayer]:
    """Return whether a layer is what ``csrc/decoder.h`` describes, all on the CPU."""
    if not isinstance(layer, GLMDecoderLayer) or layer.self_attn.cache_idx != index:  # a stage of a pipeline
        return False
    attention, mlp = layer.self_attn, layer.mlp
    linears = (attention.query_key_value, attention.dense, mlp.dense_h_to_4h, mlp.dense_4h_to_h)
    norms = (layer.input_layernorm, layer.post_attention_layernorm)
    # A type and no subclass of it: where a weight is computed anew whenever it is asked for, the subclass says so.
    return (
        all(type(linear) is QuantizedLinear and _takes_linear(linear) for linear in linears)
        and all(type(norm) is GLMLayerNorm and _is_float32(norm.weight) for norm in norms)
        and all(_is_float32(module.bias) for module in (*norms, *linears))
    )


def _takes_linear(linear: QuantizedLinear) -> bool:
    weight, scale = linear.weight, linear.weight_scale
    packed = (linear.out_features, packed_columns(linear.in_features, linear.bits))
    return weight.shape == packed and scale.shape == packed[:1] and native.takes_weight(weight, scale)


def _is_float32(parameter: Tensor | None) -> bool:
    return parameter is not None and parameter.dtype == torch.float32 and parameter.is_contiguous()


def _describe(layers: Sequence[GLMDecoderLayer]) -> structures.Decoder:
    first = layers[0]
    attention, norm = first.self_attn, first.input_layernorm
    described = (structures.Layer * len(layers))(*map(_layer, layers))
    heads = attention.query_key_value.out_features // (3 * attention.head_dim)
    return structures.Decoder(
        *(described, len(layers), norm.weight.numel(), structures.Heads(heads, attention.head_dim, attention.rows)),
        *(first.alpha, norm.eps, first.mlp.gated, attention.query_key_value.precision == "fast"),
    )


def _layer(layer: GLMDecoderLayer) -> structures.Layer:
    attention, mlp = layer.self_attn, layer.mlp
    linears = (attention.query_key_value, attention.dense, mlp.dense_h_to_4h, mlp.dense_4h_to_h)
    norms = (layer.input_layernorm, layer.post_attention_layernorm)
    return structures.Layer(
        *(structures.Norm(norm.weight.data_ptr(), norm.bias.data_ptr()) for norm in norms), *map(_linear, linears)
    )


def _linear(layer: QuantizedLinear) -> structures.Linear:
    weight, scale, bias = layer.weight, layer.weight_scale, layer.bias
    return structures.Linear(
        *(weight.data_ptr(), scale.data_ptr(), None if bias is None else bias.data_ptr()),
        *(layer.out_features, layer.in_features, native.TYPES[scale.dtype], layer.bits),
    )


register_fast_step(decode)
