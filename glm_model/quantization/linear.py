"""Define a linear layer and an embedding that hold packed integers and row scales in the place of a float weight.

Their parameters are named as in the published checkpoints: ``weight``, ``weight_scale``, ``bias``. Integers and scales
keep the dtype of the file: moving a model to another dtype casts its activations, never its scales.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels.dispatch import Precision, quantized_matmul
from ..kernels.packing import dequantize, packed_columns, quantize


class QuantizedWeight(nn.Module):
    """Base of both layers: a weight [rows, columns] as packed integers and scales, zeros until it is filled.

    Attributes:
        shape: (rows, columns) of the weight that the integers stand for.
        weight: int8 [rows, columns * bits / 8].
        weight_scale: float16, or float32 as in the first published INT4 file, [rows].

    Raises:
        ValueError: ``bits`` is not 4 or 8, or the number of columns is odd with 4 bits.
    """

    _hf_quantized_needs_local_tp = True
    """Tells transformers' tensor parallel styles that the product needs plain tensors, not ``DTensor``."""

    def __init__(self, rows: int, columns: int, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.shape = (rows, columns)
        packed = torch.zeros(rows, packed_columns(columns, bits), dtype=torch.int8)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.weight_scale = nn.Parameter(torch.zeros(rows, dtype=torch.float16), requires_grad=False)

    def fill(self, weight: Tensor) -> None:
        """Quantize a float weight [rows, columns] into this layer, on its device."""
        packed, scale = quantize(weight.detach(), self.bits)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.weight_scale = nn.Parameter(scale, requires_grad=False)

    def initialize(self, standard_deviation: float) -> None:
        """Pack normally distributed values, unless the weight is on the disk or marked as loaded by transformers."""
        if not (self.weight.is_meta or getattr(self.weight, "_is_hf_initialized", False)):
            self.fill(torch.empty(self.shape, device=self.weight.device).normal_(std=standard_deviation))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        scale = self.weight_scale.data
        super()._apply(fn, recurse)
        if self.weight_scale.dtype != scale.dtype:
            self.weight_scale.data = scale.to(self.weight_scale.device)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        # nn.Module would cast a float weight to integers, which destroys it, and a float32 scale to half.
        weight, scale = state_dict.get(f"{prefix}weight"), state_dict.get(f"{prefix}weight_scale")
        if weight is not None and weight.dtype != torch.int8:
            errors = arguments[-1]
            errors.append(f"{prefix}weight is {weight.dtype}, the layer is packed: load float weights, then quantize")
            return
        if scale is not None and scale.dtype in (torch.float16, torch.float32):
            self.weight_scale.data = self.weight_scale.data.to(scale.dtype)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class QuantizedLinear(QuantizedWeight):
    """``nn.Linear`` over packed integers.

    Attributes:
        precision: see :data:`glm_model.kernels.dispatch.Precision`.
        bias: floating [out_features], or None.
    """

    bias: nn.Parameter | None
    precision: Precision = "exact"

    def __init__(self, in_features: int, out_features: int, bits: int, bias: bool = True) -> None:
        super().__init__(out_features, in_features, bits)
        self.in_features, self.out_features = in_features, out_features
        self.register_parameter("bias", nn.Parameter(torch.zeros(out_features)) if bias else None)

    @classmethod
    def from_float(cls, linear: nn.Linear, bits: int) -> Self:
        """Return a quantized copy of a float layer; the two share the bias."""
        with torch.device("meta"):
            layer = cls(linear.in_features, linear.out_features, bits, bias=False)
        layer.fill(linear.weight)
        layer.bias = linear.bias
        return layer.train(linear.training)

    def forward(self, states: Tensor) -> Tensor:
        """Return [..., out_features] for states [..., in_features], in their dtype."""
        return quantized_matmul(states, self.weight, self.weight_scale, self.bits, self.precision, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bits={self.bits}, bias={self.bias is not None}"


class QuantizedEmbedding(QuantizedWeight):
    """``nn.Embedding`` over packed integers; rows are dequantized as they are looked up."""

    _dtype_probe: Tensor

    def __init__(self, num_embeddings: int, embedding_dim: int, bits: int) -> None:
        super().__init__(num_embeddings, embedding_dim, bits)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        # No parameter here has the dtype of the activations; this buffer follows `.half()`, `.to(...)` and the like.
        self.register_buffer("_dtype_probe", torch.empty(0), persistent=False)

    @classmethod
    def from_float(cls, embedding: nn.Embedding, bits: int) -> Self:
        """Return a quantized copy of a float embedding."""
        with torch.device("meta"):
            layer = cls(embedding.num_embeddings, embedding.embedding_dim, bits)
        layer._dtype_probe = embedding.weight.new_empty(0)
        layer.fill(embedding.weight)
        return layer.train(embedding.training)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the rows that :meth:`forward` returns."""
        return self._dtype_probe.dtype

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the dequantized rows [..., embedding_dim] of ids [...]."""
        packed, scale = F.embedding(input_ids, self.weight), self.weight_scale[input_ids]
        return dequantize(packed, scale, self.bits, self.dtype)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, bits={self.bits}"


def make_linear(
    bits: int | None,
    in_features: int,
    out_features: int,
    bias: bool = True,
    float_class: type[nn.Linear] = nn.Linear,
) -> Any:
    """Return a packed linear layer for 4 or 8 bits, or a float one for 0 or None; both are called in the same way."""
    if bits:
        return QuantizedLinear(in_features, out_features, bits, bias)
    return float_class(in_features, out_features, bias)


def make_embedding(bits: int | None, num_embeddings: int, embedding_dim: int) -> Any:
    """Return a packed embedding for 4 or 8 bits, or a float one for 0 or None; both are called in the same way."""
    if bits:
        return QuantizedEmbedding(num_embeddings, embedding_dim, bits)
    return nn.Embedding(num_embeddings, embedding_dim)
