"""Reads GLM-130B's configuration from the ``model_config.json`` beside an archive's ``latest``; writes that file."""

from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from ..checkpoint.files import read_json
from ..errors import CheckpointError
from ..model.configuration import GLM130BConfig
from .files import write_json

MODEL_CONFIG = "model_config.json"
SIZES = ("vocab_size", "hidden_size", "num_layers", "inner_hidden_size")
_SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id", "gmask_token_id", "smask_token_id")
# Fields that do not follow from the tensors.
_DESCRIBED = (
    "num_attention_heads",
    "max_sequence_length",
    "layernorm_epsilon",
    "deepnorm_alpha",
    "rotary_dtype",
    *_SPECIAL_TOKENS,
)


def read_configuration(
    folder: Path, sizes: dict[str, int], bits: int, config_file: Path | None, overrides: dict[str, Any]
) -> GLM130BConfig:
    """Return the configuration of an archive.

    Args:
        folder: holds ``latest`` and perhaps ``model_config.json``. GLM-130B itself does not need that file: it is
            recognised by its sizes.
        sizes: sizes that follow from the tensors, by the names in ``SIZES``.
        bits: 4 or 8, the bits of the packed layers; 0 for float layers.
        config_file: a ``config.json`` or ``model_config.json`` whose fields replace those of ``model_config.json``.
        overrides: fields that replace those of both files.

    Raises:
        CheckpointError: no file gives the number of heads, a file contradicts the tensors, or a special token is
            outside the vocabulary.
    """
    described: dict[str, Any] = {}
    files = [file for file in (folder / MODEL_CONFIG, config_file) if file is not None]
    for file in files:
        if file.exists() or file == config_file:
            described |= _description(file, sizes, folder)
    if "num_attention_heads" not in described | overrides and not _is_released(sizes):
        read = [str(file) for file in files if file.exists()]
        found = f"{' and '.join(read)} {'do' if len(read) > 1 else 'does'}" if read else ""
        raise CheckpointError(
            f"{found or f'{folder} has no {MODEL_CONFIG} and does'} not say num_attention_heads, which the tensors "
            "cannot tell: name a config.json that does (--config)."
        )
    given = {**_fallbacks(sizes["vocab_size"]), **described, **overrides}
    try:
        config = GLM130BConfig(**{**sizes, "quantization_bit": bits, **given})
    except StrictDataclassError as error:
        raise CheckpointError(f"{' or '.join(map(str, files))}: {' '.join(str(error).split())}") from None
    _require_special_tokens(config, folder)
    return config


def write_description(path: Path, config: GLM130BConfig, ranks: int) -> None:
    """Write ``model_config.json``: fields for SwissArmyTransformer and fields for :func:`read_configuration`."""
    sizes = {name: getattr(config, name) for name in SIZES}
    own = {"model_class": "GLM130B", "tokenizer_type": "icetk-glm-130B", "layernorm_order": "post"}
    described = {name: getattr(config, name) for name in _DESCRIBED if getattr(config, name) is not None}
    write_json(path, {**own, **sizes, "model_parallel_size": ranks, **described})


def _description(file: Path, sizes: dict[str, int], folder: Path) -> dict[str, Any]:
    content = read_json(file)
    if content.get("model_type", GLM130BConfig.model_type) != GLM130BConfig.model_type:
        raise CheckpointError(f"{file} says model_type {content['model_type']!r}; the archive is a GLM-130B.")
    for alias, name in GLM130BConfig.attribute_map.items():
        if alias in content:
            content.setdefault(name, content[alias])
    for name, size in sizes.items():
        if content.get(name, size) != size:
            raise CheckpointError(f"{file} says {name} {content[name]}, but the tensors in {folder} have {size}.")
    return {name: content[name] for name in _DESCRIBED if name in content}


def _fallbacks(vocab_size: int) -> dict[str, Any]:
    """Return ids for special tokens that a smaller model can do without: those outside a vocabulary of this size."""
    fallbacks = {"pad_token_id": 0, "smask_token_id": None}
    released = GLM130BConfig()
    return {name: value for name, value in fallbacks.items() if getattr(released, name) >= vocab_size}


def _is_released(sizes: dict[str, int]) -> bool:
    released = GLM130BConfig.preset("glm-130b")
    return all(getattr(released, name) == size for name, size in sizes.items())


def _require_special_tokens(config: GLM130BConfig, folder: Path) -> None:
    for name in _SPECIAL_TOKENS:
        value = getattr(config, name)
        ids = value if isinstance(value, list) else [value]
        if any(id_ is not None and id_ >= config.vocab_size for id_ in ids):
            raise CheckpointError(
                f"{name} is {value}, outside the vocabulary of {config.vocab_size} in {folder}: give the ids of the "
                f"special tokens in {MODEL_CONFIG} beside latest, or in a config.json (--config)."
            )
