"""Compare the sizes in config.json with the headers of the stored tensors, before a model is built of them."""

import re
from collections.abc import Mapping
from pathlib import Path

from transformers import PreTrainedConfig

from ..errors import CheckpointError
from .files import CONFIG, StoredTensor
from .keys import PREFIX_ENCODER

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_FIRST_TENSOR = re.compile(r"^(.*?)(transformer\.)?(word_embeddings|embed_tokens)(\.base_layer)?\.weight$")
_OWN_STARTS = ("", "model.")
_WRAPPERS = {
    "module.": "of DistributedDataParallel or DeepSpeed. Save the model inside it (model.module.save_pretrained)",
    "base_model.model.": "of PEFT. Write base model and adapter as one (merge_and_unload, then save_pretrained)",
    "_orig_mod.": "of torch.compile. Save the model that was compiled, not its wrapper",
}


def refuse_wrapped(stored: Mapping[str, StoredTensor]) -> None:
    """Raise CheckpointError if the names of tensors start with that of a wrapper around the model."""
    for name, header in stored.items():
        match = _FIRST_TENSOR.match(name)
        if match and match[1] not in _OWN_STARTS:
            start = match[1]
            known = next((words for wrapper, words in _WRAPPERS.items() if start.startswith(wrapper)), None)
            raise CheckpointError(
                f"{header.file}: the names of its tensors start with {start!r}, as in {name}: it was saved from "
                f"{f'a wrapper {known}' if known else 'a program that wraps the model. Save the model itself'}, or "
                "remove that start from all names."
            )


def require_layers(folder: Path, config: PreTrainedConfig, stored: Mapping[str, StoredTensor]) -> None:
    """Raise CheckpointError if the configuration asks for layers, heads or a prefix that the tensors contradict.

    All other sizes are compared tensor by tensor with the model, which is built without memory; but the time for that
    grows with the number of layers.

    Args:
        folder: the checkpoint's folder, for messages.
        config: the configuration of the model to be built.
        stored: headers of all tensors by their names in the files.
    """
    refuse_wrapped(stored)
    layers = {int(match[1]) for name in stored if (match := _LAYER.search(name)) and len(match[1]) < 10}
    found, wanted = len(layers), config.num_layers
    if layers and wanted > max(layers) + 1:
        raise CheckpointError(
            f"{folder} lacks transformer.layers.{max(layers) + 1}. and later layers: {folder / CONFIG} has num_layers "
            f"{wanted}, and the files hold {found} layers. The download may be incomplete, or {CONFIG} belongs to "
            "another checkpoint."
        )
    if not layers and not all(PREFIX_ENCODER in name for name in stored):
        raise CheckpointError(
            f"{folder} lacks transformer.layers.0.: its files hold no layer of a GLM, but "
            f"{', '.join(sorted(stored)[:3]) or 'nothing'}. Name the folder of a ChatGLM-6B or GLM-130B checkpoint."
        )
    _require_heads(folder, config, stored)
    _require_prefix_length(folder, config, stored)


def _require_heads(folder: Path, config: PreTrainedConfig, stored: Mapping[str, StoredTensor]) -> None:
    """Raise CheckpointError if the published rotary frequencies, which are not loaded, are of other heads."""
    wanted = config.hidden_size // config.num_attention_heads // config.num_position_rows // 2
    for name, header in stored.items():
        if name.endswith("rotary_emb.inv_freq") and header.shape != (wanted,):
            raise CheckpointError(
                f"{header.file}: {name} has shape {list(header.shape)}, but {folder / CONFIG} asks for [{wanted}] by "
                "hidden_size, num_attention_heads and position_encoding_2d. It belongs to another checkpoint."
            )


def _require_prefix_length(folder: Path, config: PreTrainedConfig, stored: Mapping[str, StoredTensor]) -> None:
    header = stored.get(f"{PREFIX_ENCODER}embedding.weight")
    length = getattr(config, "pre_seq_len", None)
    if header is not None and length and header.shape[:1] != (length,):
        raise CheckpointError(
            f"{header.file}: {PREFIX_ENCODER}embedding.weight has shape {list(header.shape)}, but {folder / CONFIG} "
            f"asks for pre_seq_len {length}. It belongs to another checkpoint."
        )
