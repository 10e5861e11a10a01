"""Packed checkpoints that contradict their config.json, or hold scales that cannot be: refused by name.

``settle_quantization`` looks at the request, ``refuse_mixed`` at the headers of files before they are read, and
``unsound_layers`` at the layers after.
"""

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

_SCALE = "_scale"
_SCALE_DTYPES = (torch.float16, torch.float32)
# What quantizations of another method (bitsandbytes) pack into; these check their weights themselves.
_ELSEWHERE = torch.uint8
# Square in both architectures, so its stored width tells the bits.
_SQUARE = ".dense.weight"


def settle_quantization(source: str, config: PreTrainedConfig, options: dict[str, Any]) -> None:
    """Say to transformers, before it loads a checkpoint, how the checkpoint is packed or is to be packed.

    The published configuration has fields of its own for it, of which transformers knows nothing: it looks for a
    ``quantization_config`` in a configuration (the checkpoint is packed) or in the options (it is to be packed).

    Args:
        source: of the checkpoint, for the message.
        config: of the model to be loaded. Gets a ``quantization_config`` if the checkpoint is packed, the published
            fields if it is to be packed: the model is built by them.
        options: of ``from_pretrained``. A request for what the checkpoint is already is taken out.

    Raises:
        CheckpointError: the checkpoint is packed otherwise than asked for.
        ValueError: sizes that cannot be packed with so many bits.
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


def refuse_mixed(stored: Mapping[str, StoredTensor], bits: int | None, embeddings: bool) -> None:
    """Compare the tensors of a checkpoint, by their published names, with what its configuration says.

    Args:
        stored: headers of all tensors.
        bits, embeddings: ``quantization_bit`` and ``quantization_embeddings`` of config.json.

    Raises:
        CheckpointError: packed weights that the configuration does not announce, float ones where it announces packed
            ones, another number of bits, or scales of another dtype or shape.
    """
    weights = {name: header for name, header in stored.items() if name.endswith(".weight") and len(header.shape) == 2}
    if bits:
        _refuse_other_bits(weights, bits)
    for name, header in weights.items():
        expected = bool(bits) and is_packed(name.removesuffix(".weight"), embeddings)
        fits = header.dtype == torch.int8 if expected else header.dtype.is_floating_point or header.dtype == _ELSEWHERE
        if not fits:
            found = f"{header.file}: {name} is {_plain(header.dtype)}"
            raise CheckpointError(f"{found}, but {_announced(bits, embeddings)}")
        if expected and name + _SCALE in stored:
            _refuse_scale(name + _SCALE, stored[name + _SCALE], header.shape[0])


def _refuse_other_bits(weights: Mapping[str, StoredTensor], bits: int) -> None:
    for name, header in weights.items():
        if not name.endswith(_SQUARE) or header.dtype != torch.int8:
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
    """Name of the weight, and what is wrong with it, for every packed layer that cannot be used."""
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
