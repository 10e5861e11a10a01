"""GLM-130B's own archive, as SwissArmyTransformer writes it: ``latest`` and ``<step>/mp_rank_XX_model_states.pt``.

Tensors in it have the published names, so :func:`read_sat_checkpoint` only finds, checks and describes them. So far one
rank of plain weights is read.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint_files import read_json, require_content, unpickle
from ..configuration_glm import GLM130BConfig
from ..errors import CheckpointError, UnsupportedError
from .keys import IGNORED_KEYS

MODEL_CONFIG = "model_config.json"
_EMBEDDING = "transformer.word_embeddings.weight"
_SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id", "gmask_token_id", "smask_token_id")
_ALSO_READ = ("num_attention_heads", "max_sequence_length", *_SPECIAL_TOKENS)


def read_sat_checkpoint(
    folder: str | Path, model_config: str | Path | None = None, **overrides: Any
) -> tuple[GLM130BConfig, dict[str, Tensor]]:
    """Configuration and tensors of an archive; ``from_pretrained(None, config=..., state_dict=...)`` takes both.

    Args:
        folder: holds ``latest``.
        model_config: SAT's description of the model, by default ``model_config.json`` beside ``latest``. Sizes come
            from the tensors; it is needed for the number of heads, unless the sizes are those of GLM-130B itself.
        overrides: fields of :class:`GLM130BConfig` that neither tells, such as the ids of special tokens.

    Returns:
        The configuration, and the tensors by their published names, mapped into memory, without ``inv_freq``.

    Raises:
        CheckpointError: a file is missing, damaged or not of this kind, or the sizes contradict each other.
        UnsupportedError: tensor-parallel or quantized shards.
    """
    folder = Path(folder)
    file = _only_rank(_step_folder(folder))
    tensors = _module(file)
    sizes = _sizes(tensors, file)
    described = _description(folder, None if model_config is None else Path(model_config), sizes)
    config = GLM130BConfig(**{**sizes, **described, **overrides})
    _require_special_tokens(config, folder)
    return config, tensors


def _step_folder(folder: Path) -> Path:
    latest = folder / "latest"
    require_content(latest)
    step = latest.read_text(encoding="utf-8", errors="replace").strip()
    if not (step.isdecimal() or step == "release"):
        raise CheckpointError(f"{latest} must hold a step number or 'release', not {step[:40]!r}.")
    if not (folder / step).is_dir():
        raise CheckpointError(f"{latest} names step {step}, but there is no folder {folder / step}.")
    return folder / step


def _only_rank(step_folder: Path) -> Path:
    ranks = sorted(step_folder.glob("mp_rank_*_model_states.pt"))
    if not ranks:
        raise CheckpointError(f"{step_folder} holds no mp_rank_00_model_states.pt. The download may be incomplete.")
    if len(ranks) > 1 or ranks[0].name != "mp_rank_00_model_states.pt":
        raise UnsupportedError(
            f"{step_folder} is cut into {len(ranks)} tensor-parallel shards, which are not read yet in this version. "
            "Join them with GLM-130B's tools/convert_tp.py (--target-tp 1)."
        )
    return ranks[0]


def _module(file: Path) -> dict[str, Tensor]:
    content = unpickle(file)
    module = content.get("module") if isinstance(content, dict) else None
    if not isinstance(module, dict) or not all(isinstance(value, Tensor) for value in module.values()):
        raise CheckpointError(f"{file} holds no 'module' of tensors, so it is no archive of SwissArmyTransformer.")
    if any(tensor.dtype == torch.int8 for tensor in module.values()):
        raise UnsupportedError(f"{file} holds quantized weights, which are not read yet in this version.")
    return {name: tensor for name, tensor in module.items() if not re.search(IGNORED_KEYS, name)}


def _sizes(tensors: dict[str, Tensor], file: Path) -> dict[str, int]:
    down_projection = "transformer.layers.0.mlp.dense_4h_to_h.weight"
    for name in (_EMBEDDING, down_projection):
        if name not in tensors or tensors[name].ndim != 2:
            raise CheckpointError(f"{file} has no matrix {name}, so it is no GLM-130B archive.")
    vocab_size, hidden_size = tensors[_EMBEDDING].shape
    layers = {match[1] for name in tensors if (match := re.match(r"transformer\.layers\.(\d+)\.", name))}
    return {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "num_layers": len(layers),
        "inner_hidden_size": tensors[down_projection].shape[1],
    }


def _description(folder: Path, file: Path | None, sizes: dict[str, int]) -> dict[str, Any]:
    """What model_config.json adds to the sizes; it may be absent for GLM-130B, which is known by its sizes."""
    file = file or folder / MODEL_CONFIG
    released = GLM130BConfig.preset("glm-130b")
    if not file.exists() and all(getattr(released, name) == size for name, size in sizes.items()):
        return {}
    content = read_json(file)
    for name, size in sizes.items():
        if content.get(name, size) != size:
            raise CheckpointError(f"{file} says {name} {content[name]}, but the tensors in {folder} have {size}.")
    if "num_attention_heads" not in content:
        raise CheckpointError(f"{file} does not say num_attention_heads, which the tensors cannot tell.")
    return {name: content[name] for name in _ALSO_READ if name in content}


def _require_special_tokens(config: GLM130BConfig, folder: Path) -> None:
    for name in _SPECIAL_TOKENS:
        value = getattr(config, name)
        ids = value if isinstance(value, list) else [value]
        if any(id_ is not None and id_ >= config.vocab_size for id_ in ids):
            raise CheckpointError(
                f"{name} is {value}, outside the vocabulary of {config.vocab_size} in {folder}: give the ids of the "
                f"special tokens, in {MODEL_CONFIG} or as arguments."
            )
