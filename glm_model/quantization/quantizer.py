"""Register the published quantization with transformers: its configuration, and its quantizer for loading.

Published checkpoints have ``quantization_bit`` and ``quantization_embeddings`` in config.json, which
:func:`glm_model.checkpoint.packing_checks.settle_quantization` translates for transformers before it loads one. The
model builds packed layers whenever its configuration says so. A packed checkpoint therefore loads as any other, and
the quantizer only packs the weights of a float checkpoint, one by one as they are read.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import ConversionOps
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from ..kernels.packing import BITS, quantize
from .dtensor import peaks_of_whole_rows
from .linear import QuantizedWeight
from .rules import QUANTIZATION_METHOD


@register_quantization_config(QUANTIZATION_METHOD)
class GLMQuantizationConfig(QuantizationConfigMixin):
    """The published row-wise quantization, for ``from_pretrained(..., quantization_config=...)``.

    Args:
        bits: 4 or 8.
        embeddings: whether the embedding and the head are packed too, as in chatglm-6b-int4-qe.
        quant_method: transformers' name of the method; only "glm" is allowed.

    Raises:
        ValueError: ``bits`` is not 4 or 8, or ``quant_method`` is another one.
    """

    def __init__(self, bits: int = 4, embeddings: bool = False, quant_method: str = QUANTIZATION_METHOD) -> None:
        if bits not in BITS:
            raise ValueError(f"bits must be 4 or 8, not {bits!r}")
        if quant_method != QUANTIZATION_METHOD:
            raise ValueError(f"quant_method must be {QUANTIZATION_METHOD!r}, not {quant_method!r}")
        self.bits, self.embeddings, self.quant_method = bits, embeddings, quant_method


@register_quantizer(QUANTIZATION_METHOD)
class GLMQuantizer(HfQuantizer):
    """Quantizer that packs float weights while they load; see :func:`glm_model.kernels.packing.quantize`.

    Attributes:
        quantization_config: the requested packing, or that of the checkpoint.
        pre_quantized: whether the checkpoint is packed already.
        float_weights: names of the parameters that are packed while they load.
        float_types: dtypes, by name, that the parameters which stay float must have after loading.
    """

    quantization_config: GLMQuantizationConfig

    def __init__(self, quantization_config: GLMQuantizationConfig, **kwargs: Any) -> None:
        super().__init__(quantization_config, **kwargs)
        self.float_weights: set[str] = set()
        self.float_types: dict[str, torch.dtype] = {}
        self._model_config: Any = None

    def _process_model_before_weight_loading(self, model: nn.Module, **kwargs: Any) -> None:
        self.float_types = {
            name: torch.float32 if _stays_float32(model, name) else parameter.dtype
            for name, parameter in model.named_parameters()
            if parameter.is_floating_point() and not name.endswith(".weight_scale")
        }
        if not self.pre_quantized:
            packed = {name for name, module in model.named_modules() if isinstance(module, QuantizedWeight)}
            self.float_weights = {f"{name}.weight" for name in packed}

    def param_needs_quantization(self, model: nn.Module, param_name: str, **kwargs: Any) -> bool:
        return param_name in self.float_weights

    def get_quantize_ops(self) -> ConversionOps:
        return _Pack(self.quantization_config.bits)

    def get_new_dtype(self, converter: Any, param: Any, dtype: torch.dtype | None) -> torch.dtype | None:
        # Scales keep the dtype of the file. A float weight in the place of a packed one is not cast to int8, so that it
        # can be recognized and refused after loading.
        if dtype == torch.int8 or converter.target_patterns[0].endswith(".weight_scale"):
            return None
        return super().get_new_dtype(converter, param, dtype)

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> None:
        for module in model.modules():
            if isinstance(module, QuantizedWeight):
                module.requires_grad_(False)  # loading makes every floating parameter trainable
        # transformers 5.17 leaves parameters that it renamed in the dtype of a packed file.
        for name, parameter in model.named_parameters():
            dtype = self.float_types.get(name, parameter.dtype)
            if parameter.dtype != dtype and parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)
        self._model_config = model.config

    def get_state_dict_and_metadata(self, model: Any) -> tuple[dict[str, Tensor] | None, dict[str, str]]:
        if "lm_head.weight_scale" not in model.all_tied_weights_keys:
            return None, {}
        # The published code ties the integers of head and embedding, but not their scales: both must be in the file.
        state_dict = model.state_dict()
        return state_dict | {name: state_dict[name].clone() for name in model.all_tied_weights_keys}, {}

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True

    @property
    def is_qat_trainable(self) -> bool:
        """Whether ``Trainer`` may train the quantized model without adapters: only a P-Tuning prefix can be trained."""
        return bool(getattr(self._model_config, "pre_seq_len", None))

    @property
    def is_compileable(self) -> bool:
        return True


def _stays_float32(model: Any, name: str) -> bool:
    return any(part in model._keep_in_fp32_modules_strict for part in name.split("."))


class _Pack(ConversionOps):
    """Conversion of a float weight to packed integers and scales while it is read into the model."""

    def __init__(self, bits: int) -> None:
        self.bits = bits

    def convert(
        self, input_dict: dict[str, Any], *args: Any, full_layer_name: str, model: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        (value,) = input_dict.values()
        weight = value[0] if isinstance(value, list) else value
        peak = peaks_of_whole_rows(weight, model.get_parameter(full_layer_name))
        packed, scale = quantize(weight, self.bits, peak)
        return {full_layer_name: packed, f"{full_layer_name}_scale": scale}
