"""Refuse packed checkpoints that contradict their config.json or hold impossible scales.

``settle_quantization`` checks the request, ``refuse_mixed`` the headers of the files before they are read, and
``unsound_layers`` the layers afterwards.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from ..errors import CheckpointError
from ..kernels.packing import BITS
from ..quantization.dtensor import local
from ..quantization.linear import QuantizedWeight
from ..quantization.quantizer import GLMQuantizationConfig
from ..quantization.rules import QUANTIZATION_METHOD, is_packed
from .files import StoredTensor
from .keys import IGNORED_KEYS

_SCALE = "_scale"
_EVER_FLOAT = "it should be floating in every checkpoint. The file is damaged, or made by another program."
_SCALE_DTYPES = (torch.float16, torch.float32)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Square in both architectures, so its stored width tells the bits.
_SQUARE = ".dense.weight"


def settle_quantization(source: str, config: PreTrainedConfig, options: dict[str, Any]) -> None:
    """Tell transformers, before it loads a checkpoint, how the checkpoint is packed or is to be packed.

    The published configuration has its own fields for this, which transformers does not know. It looks for a
    ``quantization_config`` in the configuration (the checkpoint is packed) or in the options (it is to be packed).

    Args:
        source: the name of the checkpoint, for messages.
        config: the configuration of the model to be loaded; changed in place. It gets a ``quantization_config`` if the
            checkpoint is packed, and the published fields, by which the model is built, if it is to be packed.
        options: arguments of ``from_pretrained``; changed in place. A request for the packing that the checkpoint
            already has is removed.

    Raises:
        CheckpointError: the checkpoint is packed in another way than requested.
        ValueError: the sizes of the model cannot be packed with so many bits.
    """
    bits, embeddings = config.quantization_bit, config.quantization_embeddings
    wanted = options.get("quantization_config")
    if isinstance(wanted, dict) and wanted.get("quant_method") == QUANTIZATION_METHOD:
        wanted = options["quantization_config"] = GLMQuantizationConfig(**wanted)
    if bits:
        if isinstance(wanted, GLMQuantizationConfig):
            _refuse_other_packing(source, bits, embeddings, wanted)
            del options["quantization_config"]
        config.quantization_config = GLMQuantizationConfig(bits, embeddings).to_dict()
    elif isinstance(wanted, GLMQuantizationConfig):
        config.quantization_bit, config.quantization_embeddings = wanted.bits, wanted.embeddings
        config.validate_architecture()


def _refuse_other_packing(source: str, bits: int, embeddings: bool, wanted: GLMQuantizationConfig) -> None:
    if wanted.bits != bits or (wanted.embeddings and not embeddings):
        raise CheckpointError(
            f"{source} is INT{bits} already (quantization_embeddings {str(embeddings).lower()}) and cannot become "
            f"INT{wanted.bits}{' with its embedding' if wanted.embeddings else ''}: quantize the float checkpoint."
        )


def refuse_mixed(
    stored: Mapping[str, StoredTensor], bits: int | None, embeddings: bool, packed_elsewhere: bool = False
) -> None:
    """Raise CheckpointError if the dtypes of a checkpoint's tensors contradict its configuration.

    Args:
        stored: headers of all tensors by their published names.
        bits, embeddings: ``quantization_bit`` and ``quantization_embeddings`` of config.json.
        packed_elsewhere: the weights are packed by another method (bitsandbytes), which checks them itself; only biases
            and LayerNorms are looked at.

    Raises:
        CheckpointError: weights are packed though the configuration says that they are not, or float though it says
            that they are packed; the bits, or the dtype or shape of a scale, differ; or another tensor is not float.
    """
    if bits:
        _refuse_other_bits(stored, bits)
    for name, header in stored.items():
        if re.search(IGNORED_KEYS, name) or (packed_elsewhere and not _is_never_packed(name)):
            continue
        expected = bool(bits) and name.endswith(".weight") and is_packed(name.removesuffix(".weight"), embeddings)
        if header.dtype not in ((torch.int8,) if expected else FLOATS):
            found = f"{header.file}: {name} is {_plain(header.dtype)}"
            if name.endswith(_SCALE):
                raise CheckpointError(f"{found}; scales are float16 or float32.")
            is_matrix = name.endswith(".weight") and len(header.shape) == 2
            raise CheckpointError(f"{found}, but {_announced(bits, embeddings) if is_matrix else _EVER_FLOAT}")
        if expected and name + _SCALE in stored:
            _refuse_scale(name + _SCALE, stored[name + _SCALE], header.shape[0] if header.shape else 0)


def _is_never_packed(name: str) -> bool:
    return name.endswith(".bias") or (name.endswith(".weight") and "norm" in name)


def _refuse_other_bits(stored: Mapping[str, StoredTensor], bits: int) -> None:
    for name, header in stored.items():
        if not name.endswith(_SQUARE) or header.dtype != torch.int8 or len(header.shape) != 2 or not header.shape[0]:
            continue
        found = header.shape[1] * 8 / header.shape[0]
        if found != bits:
            kind = f"INT{found:.0f}" if found in BITS else "no packed weight"
            raise CheckpointError(
                f"{header.file}: {name} is {kind} by its shape {list(header.shape)}, but config.json has "
                f"quantization_bit {bits}. Take the config.json that belongs to the weights."
            )


def _refuse_scale(name: str, header: StoredTensor, rows: int) -> None:
    if header.dtype not in _SCALE_DTYPES:
        raise CheckpointError(f"{header.file}: {name} is {_plain(header.dtype)}; scales are float16 or float32.")
    if header.shape != (rows,):
        raise CheckpointError(
            f"{header.file}: {name} has shape {list(header.shape)}; its weight needs one scale per row, [{rows}]."
        )


def _announced(bits: int | None, embeddings: bool) -> str:
    if bits:
        return (
            f"config.json has quantization_bit {bits} and quantization_embeddings {str(embeddings).lower()}. The two "
            "fields must say what the weights are: take the config.json that belongs to them."
        )
    return (
        "config.json has no quantization_bit, so weights should be floating. Take the config.json that belongs to them "
        '(INT4 checkpoints say "quantization_bit": 4, INT8 ones 8).'
    )


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def unsound_layers(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the name of the weight and a description of its fault for every packed layer that cannot be used."""
    for name, module in model.named_modules():
        if isinstance(module, QuantizedWeight) and (fault := _fault(module)):
            yield f"{name}.weight", fault


def _fault(layer: QuantizedWeight) -> str | None:
    weight, scale = layer.weight, layer.weight_scale
    if weight.is_meta:
        return None  # offloaded
    found = (len(weight), weight.shape[1] * 8 // layer.bits)
    if found != layer.shape:
        return f"stands for a matrix {list(found)}, but config.json asks for {list(layer.shape)}"
    if weight.dtype != torch.int8 or scale.dtype not in _SCALE_DTYPES or scale.shape != weight.shape[:1]:
        return (
            f"is {_plain(weight.dtype)} {list(weight.shape)} with scales in {_plain(scale.dtype)} {list(scale.shape)}; "
            "int8 and one float16 or float32 scale per row are needed"
        )
    integers, scales = local(weight), local(scale)
    if not bool(scales.isfinite().all()):
        return "has scales that are NaN or infinite"
    if bool((scales < 0).any()):
        return "has negative scales"
    if bool(integers[scales == 0].any()):  # a row of zeros rightly has scale 0
        return "has scales of 0 for rows that are not 0"
    return None
