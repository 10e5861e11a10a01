"""A packed model's decoding step on the CPU in one call: ``csrc/decoder.h`` says what ``modeling_glm`` says in torch.

At 50 GB/s a layer's INT4 weights are read in two milliseconds. The small operations between its products (norms, rotary
positions, cache, attention, activation) take half a millisecond in torch, because the weights have driven their code
and data from every cache; here they take a twentieth of that.

Only where nobody could notice: one new token of each sequence, float32, no hooks, no gradients. Everything else is
torch's, and the parameters and the cache stay where they are.
"""

from ctypes import POINTER, Structure, byref, c_float, c_int, c_int64, c_void_p
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..kernels import native
from ..kernels.packing import packed_columns
from ..quantization.linear import QuantizedLinear
from .configuration import GLMConfig
from .decoder import register_fast_step
from .hooks import anybody_listens
from .kv_cache import RoomyCache
from .layers import GLMDecoderLayer
from .norm import GLMLayerNorm

MOST_SEQUENCES = 16
"""With more, the products weigh so much more than what stands between them that torch may do that."""


class _Linear(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("weight", "scale", "bias")),
        *(("outputs", c_int64), ("columns", c_int64), ("scale_type", c_int), ("bits", c_int)),
    )


class _Norm(Structure):
    _fields_ = (("weight", c_void_p), ("bias", c_void_p))


class _Layer(Structure):
    _fields_ = (
        *((name, _Norm) for name in ("input_norm", "output_norm")),
        *((name, _Linear) for name in ("query_key_value", "dense", "up", "down")),
    )


class _Decoder(Structure):
    _fields_ = (
        ("layers", POINTER(_Layer)),
        *((name, c_int64) for name in ("count", "hidden", "heads", "head_dim", "position_rows")),
        *(("alpha", c_float), ("epsilon", c_float), ("gated", c_int), ("quantize", c_int)),
    )


class _Rooms(Structure):
    _fields_ = (("keys", c_void_p), ("values", c_void_p), ("room", c_int64))


class _Step(Structure):
    _fields_ = (
        *(("batch", c_int64), ("cached", c_int64)),
        *((name, c_void_p) for name in ("cos", "sin", "visible")),
        *(("rooms", POINTER(_Rooms)), ("type", c_int)),
    )


def decode(
    layers: nn.ModuleList,
    config: GLMConfig,
    states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    mask: Any,
    cache: Any,
) -> Tensor | None:
    """What the layers make of the embeddings of one new token of each sequence; None where torch has to do it.

    Args:
        layers: of the decoder, on the CPU.
        config: of the decoder.
        states: [batch, 1, hidden].
        position_embeddings: cosines and sines, each [batch, 1, 1, 1, rows, dim].
        mask: of the attention; only None or bool [batch, 1, 1, cached + 1], True where a token is seen.
        cache: gets the new tokens' keys and values.
    """
    if not config.quantization_bit or not _is_a_step(states, mask, cache) or not native.is_usable():
        return None
    decoder = _decoders.get(layers)
    if decoder is None or decoder.is_stale():
        decoder = _decoders[layers] = _NativeDecoder(layers, config)
    if not decoder.can_take(states, mask, cache):
        return None
    return decoder.step(states, position_embeddings, mask, cache)


def _is_a_step(states: Tensor, mask: Any, cache: Any) -> bool:
    return (
        states.device.type == "cpu"
        and states.dtype == torch.float32
        and states.shape[1] == 1
        and len(states) <= MOST_SEQUENCES
        and (mask is None or (isinstance(mask, Tensor) and mask.dtype == torch.bool))
        and isinstance(cache, RoomyCache)
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )


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
        plain = (
            all(_is_plain(layer, index) for index, layer in enumerate(layers))
            and len({linear.precision for linear in self._linears}) == 1
        )
        self._decoder = _describe(list(layers)) if plain else None

    def _current_state(self) -> list[Any]:
        addresses = [parameter.data_ptr() for parameter in self._parameters]
        return addresses + [linear.precision for linear in self._linears]

    def is_stale(self) -> bool:
        """Whether a parameter, a layer or its precision is another one than it was."""
        return self._current_state() != self._state or any(
            names.get(name) is not value for names, name, value in self._links
        )

    def can_take(self, states: Tensor, mask: Any, cache: RoomyCache) -> bool:
        """Whether nobody would notice that the modules are not called, and all shapes are as they must be."""
        if (
            self._decoder is None
            or self._config._attn_implementation != "sdpa"
            or any("forward" in d for d in self._dicts)
            or anybody_listens(self._dicts)
        ):
            return False
        cached = cache.get_seq_length()
        shape = (len(states), self._decoder.heads, cached, self._decoder.head_dim)
        return (
            cached > 0
            and len(cache.layers) == self._decoder.count
            and all(layer.is_initialized and layer.keys.shape == shape for layer in cache.layers)
            and all(layer.device.type == "cpu" for layer in cache.layers)
            and (mask is None or mask.shape[1:] == (1, 1, cached + 1))
        )

    def step(
        self, states: Tensor, position_embeddings: tuple[Tensor, Tensor], mask: Tensor | None, cache: RoomyCache
    ) -> Tensor:
        """See :func:`decode`."""
        assert self._decoder is not None
        batch, cached = len(states), cache.get_seq_length()
        rooms = [layer.extend(1) for layer in cache.layers]
        described = [_Rooms(keys.data_ptr(), values.data_ptr(), keys.shape[2]) for keys, values in rooms]
        cos, sin = (part.expand(batch, *part.shape[1:]).contiguous() for part in position_embeddings)
        visible = None if mask is None else mask.expand(batch, -1, -1, -1).contiguous()
        step = _Step(
            *(batch, cached, cos.data_ptr(), sin.data_ptr(), None if visible is None else visible.data_ptr()),
            *((_Rooms * len(rooms))(*described), native.TYPES[rooms[0][0].dtype]),
        )
        new = states.clone(memory_format=torch.contiguous_format)
        if native.found().decode(byref(self._decoder), byref(step), new.data_ptr(), torch.get_num_threads()):
            raise MemoryError(f"not enough memory for a step of {batch} sequences with {cached} tokens each")
        return new


_decoders: "WeakKeyDictionary[nn.ModuleList, _NativeDecoder]" = WeakKeyDictionary()


def _is_plain(layer: Any, index: int) -> bool:
    """Whether a layer is what ``csrc/decoder.h`` describes, all on the CPU."""
    if not hasattr(layer, "self_attn") or layer.self_attn.cache_idx != index:  # a stage of a pipeline
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


def _describe(layers: list[Any]) -> _Decoder:
    first = layers[0]
    attention, norm = first.self_attn, first.input_layernorm
    described = (_Layer * len(layers))(*map(_layer, layers))
    heads = attention.query_key_value.out_features // (3 * attention.head_dim)
    return _Decoder(
        *(described, len(layers), norm.weight.numel(), heads, attention.head_dim, attention.rows),
        *(first.alpha, norm.eps, first.mlp.gated, attention.query_key_value.precision == "fast"),
    )


def _layer(layer: GLMDecoderLayer) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    linears = (attention.query_key_value, attention.dense, mlp.dense_h_to_4h, mlp.dense_4h_to_h)
    norms = (layer.input_layernorm, layer.post_attention_layernorm)
    return _Layer(*(_Norm(norm.weight.data_ptr(), norm.bias.data_ptr()) for norm in norms), *map(_linear, linears))


def _linear(layer: QuantizedLinear) -> _Linear:
    weight, scale, bias = layer.weight, layer.weight_scale, layer.bias
    return _Linear(
        *(weight.data_ptr(), scale.data_ptr(), None if bias is None else bias.data_ptr()),
        *(layer.out_features, layer.in_features, native.TYPES[scale.dtype], layer.bits),
    )


register_fast_step(decode)
