"""Add quantization to the models: the published ``quantize()``, casts of packed models, and parameter counts."""

import logging
import math
from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..errors import UnsupportedError
from ..kernels.packing import packed_columns
from .linear import QuantizedEmbedding, QuantizedLinear, QuantizedWeight
from .quantizer import GLMQuantizationConfig, GLMQuantizer
from .rules import TIED_SCALE, is_packed

logger = logging.getLogger(__name__)

# Arguments of the published method that choose among its C and CUDA kernels.
_PUBLISHED_OPTIONS = {
    "empty_init",
    "use_quantization_cache",
    "kernel_file",
    "source_code",
    "compile_parallel_kernel",
    "parallel_num",
}


class QuantizableModel(PreTrainedModel):
    """``PreTrainedModel`` with the published quantization; the base of the models of this package."""

    def quantize(self, bits: int, quantize_embeddings: bool = False, **published: object) -> Self:
        """Pack the linear layers of every block in place, as the published method does.

        The arithmetic is that of the weights' dtype. To get the integers of the published checkpoints from a published
        FP16 checkpoint do not call ``float()`` first, or use ``from_pretrained(..., quantization_config=...)``, which
        also needs little more memory than the packed model.

        Args:
            bits: 4 or 8; 0 does nothing.
            quantize_embeddings: the embedding and the head too.
            published: further arguments of the published method, which chose its kernels; they are ignored.

        Returns:
            The model itself.

        Raises:
            ValueError: ``bits`` is not 0, 4 or 8; a weight has an odd number of columns for 4 bits; or it holds values
                that are NaN, infinite or too large for a scale.
            TypeError: an argument is unknown.
            UnsupportedError: the model is quantized already in another way.
        """
        if unknown := published.keys() - _PUBLISHED_OPTIONS:
            raise TypeError(f"quantize() got an unexpected keyword argument {min(unknown)!r}")
        if bits == 0 or _is_packed_already(self.config, bits, quantize_embeddings):
            return self
        return self._pack(bits, quantize_embeddings)

    def quantize_head(self) -> Self:
        """Pack the embedding and the head of a quantized model in place, with the bits of its other layers.

        Returns:
            The model itself.

        Raises:
            ValueError: the model is not quantized, or its embedding cannot be packed; see :meth:`quantize`.
        """
        if not self.config.quantization_bit:
            raise ValueError("quantize_head goes with quantize: say how many bits, int4 or int8")
        return self if self.config.quantization_embeddings else self._pack(self.config.quantization_bit, True)

    def _pack(self, bits: int, embeddings: bool) -> Self:
        quantizer = GLMQuantizer(GLMQuantizationConfig(bits, embeddings), pre_quantized=False)
        _pack_layers(self, bits, embeddings)
        self.config.quantization_bit, self.config.quantization_embeddings = bits, embeddings
        # As after `from_pretrained` with the same configuration.
        self.hf_quantizer = quantizer
        quantizer.preprocess_model(self)
        quantizer.postprocess_model(self)
        return self

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the activations, also if the embedding is packed and no parameter has it."""
        embedding = self.get_input_embeddings()
        return embedding.dtype if isinstance(embedding, QuantizedEmbedding) else super().dtype

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Return the number of parameters as in transformers; a packed weight counts as its float weight."""
        total = super().num_parameters(only_trainable, exclude_embeddings)
        if only_trainable:
            return total
        layers: dict[int, QuantizedWeight] = {}
        for layer in self.modules():
            if isinstance(layer, QuantizedWeight):
                layers.setdefault(id(layer.weight), layer)  # a tied head shares the embedding's
        for layer in layers.values():
            total -= layer.weight.numel() + layer.weight_scale.numel()
            if not (exclude_embeddings and isinstance(layer, QuantizedEmbedding)):
                total += math.prod(layer.shape)
        return total

    def half(self, *args: object) -> Self:
        """Cast activations and float weights to half; packed integers and their scales stay as they are.

        Published code calls this on quantized models, for which transformers forbids it.
        """
        return nn.Module.half(self, *args)

    def float(self, *args: object) -> Self:
        """Cast activations and float weights to float32; see :meth:`half`."""
        return nn.Module.float(self, *args)


def _is_packed_already(config: Any, bits: int, embeddings: bool) -> bool:
    packed_bits, packed_embeddings = config.quantization_bit, config.quantization_embeddings
    if not packed_bits:
        return False
    if (packed_bits, packed_embeddings) != (bits, embeddings):
        raise UnsupportedError(
            f"the model is quantized already (quantization_bit {packed_bits}, quantization_embeddings "
            f"{packed_embeddings}); it cannot be quantized again to {bits} bits with quantize_embeddings={embeddings}. "
            "Load the float checkpoint it was made from."
        )
    logger.info("Already quantized.")
    return True


def _pack_layers(model: PreTrainedModel, bits: int, embeddings: bool) -> None:
    """Replace the float layers of a model by packed ones, one after the other to save memory."""
    names = [name for name, _ in _float_layers(model, embeddings)]
    for name, module in _float_layers(model, embeddings):
        _require_packable(f"{name}.weight", module.weight, bits)
    tied = embeddings and "lm_head.weight" in model.all_tied_weights_keys
    for name in names:
        module = model.get_submodule(name)
        if isinstance(module, nn.Embedding):
            model.set_submodule(name, QuantizedEmbedding.from_float(module, bits))
        elif tied and name == "lm_head":
            with torch.device("meta"):
                model.set_submodule(name, QuantizedLinear(module.in_features, module.out_features, bits, bias=False))
        else:
            model.set_submodule(name, QuantizedLinear.from_float(module, bits))
    if tied:
        model._tied_weights_keys = model._tied_weights_keys | TIED_SCALE
        model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)
        model.tie_weights()


def _float_layers(model: nn.Module, embeddings: bool) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding) and is_packed(name, embeddings):
            yield name, module


def _require_packable(name: str, weight: Tensor, bits: int) -> None:
    try:
        packed_columns(weight.shape[-1], bits)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    largest = max(abs(float(end)) for end in torch.aminmax(weight.detach()))
    if not largest <= torch.finfo(torch.float16).max * (2 ** (bits - 1) - 1):
        raise ValueError(f"{name} holds values that are NaN, infinite or too large for a scale in half")
