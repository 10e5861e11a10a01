"""Run all layers of a packed model for one new token on the CPU in one call of ``csrc/decoder.h``.

That code computes the same as :mod:`.layers` does in torch. At 50 GB/s a layer's INT4 weights are read in two
milliseconds. The small operations between its matrix products (norms, rotary positions, cache, attention, activation)
take half a millisecond in torch, because the weights have evicted their code and data from all processor caches; here
they take a twentieth of that.

A native step is used only if its result is the same and no other code could miss the calls of the modules: one new
token of each sequence, float32, no hooks, no gradients. Everything else is computed by torch. The library works on the
parameters and the cache of the model, without copies.

:func:`layers_step` takes sequences that share a cache, and so have one length; :func:`rows_step` takes sequences of any
lengths, each with a cache of its own, without padding or mask.
"""

from collections.abc import Sequence
from ctypes import byref
from typing import TypeGuard
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..kernels import native, structures
from ..kernels.packing import packed_columns
from ..quantization.linear import QuantizedLinear
from . import native_rows
from .configuration import GLMConfig
from .decoder import register_fast_step
from .hooks import has_active_hooks
from .kv_cache import GrowingCache
from .layers import GLMDecoderLayer
from .native_rows import Places
from .norm import GLMLayerNorm
from .row_cache import RowCaches

MOST_SEQUENCES = 32
"""The largest batch of a native step. With more sequences the products take so long that the operations between them
do not matter, and torch runs the step."""


def layers_step(
    layers: nn.ModuleList,
    config: GLMConfig,
    states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    mask: object,
    cache: object,
) -> Tensor | None:
    """Return the last layer's output for one new token of each sequence, or None if torch has to run the layers.

    Args:
        layers: the layers of the decoder, on the CPU.
        config: the configuration of the decoder.
        states: [batch, 1, hidden], the embeddings of the new tokens.
        position_embeddings: cosines and sines, each [batch, 1, 1, 1, rows, dim].
        mask: the attention mask, None or bool [batch, 1, 1, cached + 1], True where a token is seen; any other mask
            gives None.
        cache: the :class:`.GrowingCache` of all sequences, to which the new keys and values are added; or
            :class:`.RowCaches`, for which this is :func:`rows_step`; any other cache gives None.

    Returns:
        [batch, 1, hidden], or None.

    Raises:
        MemoryError: there is not enough memory for the step.
    """
    if isinstance(cache, RowCaches):
        return rows_step(layers, config, states, position_embeddings, cache)
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
    return decoder.step(states, position_embeddings, _make_room(cache), visible)


def rows_step(
    layers: nn.ModuleList,
    config: GLMConfig,
    states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    caches: RowCaches,
) -> Tensor | None:
    """Return the same as :func:`layers_step` for sequences that have a cache each.

    A new token sees the tokens of its own cache and itself.

    Args:
        layers: the layers of the decoder, on the CPU.
        config: the configuration of the decoder.
        states: [rows, 1, hidden], the embeddings of the new tokens.
        position_embeddings: cosines and sines, each [rows, 1, 1, 1, position rows, dim].
        caches: the caches of the rows, of one dtype; others give None.

    Returns:
        [rows, 1, hidden], or None if torch has to run the layers.

    Raises:
        MemoryError: there is not enough memory for the step.
    """
    if not _is_a_step(config, states):
        return None
    decoder = _decoder_of(layers, config)
    if decoder is None or not native_rows.takes(caches, decoder.heads, decoder.count):
        return None
    return decoder.step(states, position_embeddings, native_rows.make_room(caches), None)


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
    """The layers of a model as the library reads them, and the state by which a change of the model is noticed."""

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
        """Return whether a parameter, a layer or a layer's precision was replaced since this description was made."""
        return self._current_state() != self._state or any(
            names.get(name) is not value for names, name, value in self._links
        )

    def replaces_modules(self) -> bool:
        """Return whether a native step computes what calling the modules would: no hook, no replaced ``forward``."""
        return (
            self._decoder is not None
            and self._config._attn_implementation == "sdpa"
            and not any("forward" in d for d in self._dicts)
            and not has_active_hooks(self._dicts)
        )

    @property
    def heads(self) -> structures.Heads:
        """The shape of the attention."""
        assert self._decoder is not None
        return self._decoder.heads

    @property
    def count(self) -> int:
        """The number of layers."""
        assert self._decoder is not None
        return self._decoder.count

    def takes_cache(self, cache: GrowingCache, batch: int) -> bool:
        """Return whether a cache holds tokens of ``batch`` sequences on the CPU, in the shapes of the library."""
        cached = cache.get_seq_length()
        shape = (batch, self.heads.heads, cached, self.heads.head_dim)
        return (
            cached > 0
            and len(cache.layers) == self.count
            and all(layer.is_initialized and layer.keys.shape == shape for layer in cache.layers)
            and all(layer.device.type == "cpu" for layer in cache.layers)
        )

    def step(
        self,
        states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        places: Places,
        visible: Tensor | None,
    ) -> Tensor:
        """Run the step in the library, and return the output of the last layer, [batch, 1, hidden].

        Args:
            states: [batch, 1, hidden], the embeddings of the new tokens.
            position_embeddings: cosines and sines, each [batch or 1, 1, 1, 1, position rows, dim].
            places: where the keys and values of each sequence are.
            visible: the mask of sequences of one length, contiguous bool [batch, 1, 1, cached + 1]; None hides nothing.

        Raises:
            MemoryError: there is not enough memory for the step.
        """
        assert self._decoder is not None
        batch = len(states)
        cos, sin = (part.expand(batch, *part.shape[1:]).contiguous() for part in position_embeddings)
        step = native_rows.describe(cos, sin, places)
        if visible is not None:
            for row in range(batch):
                step.sequences[row].visible = visible.data_ptr() + row * visible.shape[-1]
        new = states.clone(memory_format=torch.contiguous_format)
        if native.found().decode(byref(self._decoder), byref(step), new.data_ptr(), torch.get_num_threads()):
            raise MemoryError(f"not enough memory for a step of {batch} sequences with {max(places.lengths)} tokens")
        return new


def _make_room(cache: GrowingCache) -> Places:
    """Make room for one more token of each sequence of a cache, in every layer."""
    length = cache.get_seq_length()
    numbers: list[int] = []
    for layer in cache.layers:
        keys, values = layer.extend(1)
        assert keys.stride() == values.stride()
        assert keys.stride()[2:] == (keys.shape[3], 1)
        row, head = keys.stride()[:2]
        size, first_keys, first_values = keys.element_size() * row, keys.data_ptr(), values.data_ptr()
        for index in range(len(keys)):
            numbers += (first_keys + index * size, first_values + index * size, head)
    return Places([length] * len(keys), torch.tensor(numbers), keys.dtype)


_decoders: "WeakKeyDictionary[nn.ModuleList, _NativeDecoder]" = WeakKeyDictionary()


def _is_plain(layer: nn.Module, index: int) -> TypeGuard[GLMDecoderLayer]:
    """Return whether a layer, with all its parameters on the CPU, is one that ``csrc/decoder.h`` can compute."""
    if not isinstance(layer, GLMDecoderLayer) or layer.self_attn.cache_idx != index:  # a stage of a pipeline
        return False
    attention, mlp = layer.self_attn, layer.mlp
    linears = (attention.query_key_value, attention.dense, mlp.dense_h_to_4h, mlp.dense_4h_to_h)
    norms = (layer.input_layernorm, layer.post_attention_layernorm)
    # Compared by type, without subclasses: parametrizations, which compute a weight at every access, make a subclass.
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


register_fast_step(layers_step)
