"""Load a trained P-Tuning v2 prefix from the files that the published fine-tuning script writes."""

import copy
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError, UnsupportedError
from ..model.configuration import ChatGLMConfig
from ..model.prefix import PrefixEncoder, train_prefix_alone
from .boundary import reading
from .files import read_tensors, weight_files
from .packing_checks import FLOATS

_PROJECTION = {"trans.0.weight", "trans.0.bias", "trans.2.weight", "trans.2.bias"}
# Files of the fine-tuning script name tensors "transformer.prefix_encoder.embedding.weight"; its README strips that.
_KEY_PREFIX = re.compile(r"^(\w+\.)*prefix_encoder\.")


def load_prefix(model: Any, path: str | Path) -> None:
    """Load a prefix that the fine-tuning script has trained into a ChatGLM-6B.

    The prefix stays in float32, as in the script's README; its length and kind are read from the tensors.

    Args:
        model: a ``ChatGLMForCausalLM``, with any prefix or none; changed in place.
        path: the script's checkpoint folder (pytorch_model.bin or model.safetensors), or such a file; its tensors are
            named ``transformer.prefix_encoder.*`` or without that start.

    Raises:
        CheckpointError: a file is missing or damaged, or its tensors are no prefix for this model.
        UnsupportedError: the model is not a ChatGLM-6B.
    """
    config = model.config
    if not isinstance(config, ChatGLMConfig):
        raise UnsupportedError(f"a P-Tuning prefix is for ChatGLM-6B; this model is a {type(model).__name__}.")
    source = Path(path).expanduser()
    with reading(source):
        tensors = _read_prefix(source)
    length = _length(config, tensors, source)
    sizes = {"pre_seq_len": length, "prefix_projection": len(tensors) > 1}
    fitting = copy.deepcopy(config)
    fitting.update(sizes)
    encoder = PrefixEncoder(fitting, length)
    _require_fit(encoder, tensors, source)
    encoder.load_state_dict(tensors)
    config.update(sizes)
    model.model.prefix_encoder = encoder.to(model.device).train(model.training)
    train_prefix_alone(model)


def _read_prefix(path: Path) -> dict[str, Tensor]:
    """Return the prefix tensors of a file or folder by their names inside the encoder."""
    if not path.exists():
        raise CheckpointError(f"there is no P-Tuning prefix at {path}: name the folder that the fine-tuning wrote.")
    files = weight_files(path) if path.is_dir() else [path]
    stored = {name: tensor for file in files for name, tensor in read_tensors(file).items()}
    named = {name: tensor for name, tensor in stored.items() if _KEY_PREFIX.match(name)} or stored
    tensors = {_KEY_PREFIX.sub("", name): tensor for name, tensor in named.items()}
    if tensors.keys() not in ({"embedding.weight"}, {"embedding.weight"} | _PROJECTION):
        raise CheckpointError(
            f"{path} holds no P-Tuning prefix: it needs transformer.prefix_encoder.embedding.weight, with "
            f"prefix_projection also trans.0 and trans.2, and has {', '.join(sorted(named)[:5]) or 'nothing'}."
        )
    return tensors


def _length(config: ChatGLMConfig, tensors: dict[str, Tensor], source: Path) -> int:
    """Return the length of a prefix. Raise CheckpointError if its tensor is of another size than the model's prefix."""
    embedding = tensors["embedding.weight"]
    columns = config.hidden_size * (1 if len(tensors) > 1 else 2 * config.num_layers)
    if embedding.ndim != 2 or embedding.shape[1] != columns or not 0 < len(embedding) <= config.max_sequence_length:
        raise CheckpointError(
            f"{source}: prefix_encoder.embedding.weight has shape {list(embedding.shape)}, this model needs [length, "
            f"{columns}] with a length of 1 to {config.max_sequence_length}. The prefix was trained for a model of "
            "another size."
        )
    return len(embedding)


def _require_fit(encoder: PrefixEncoder, tensors: dict[str, Tensor], source: Path) -> None:
    for name, wanted in encoder.state_dict().items():
        if tensors[name].shape != wanted.shape:
            raise CheckpointError(
                f"{source}: prefix_encoder.{name} has shape {list(tensors[name].shape)}, this model needs "
                f"{list(wanted.shape)}. The prefix was trained for a model of another size."
            )
        if tensors[name].dtype not in FLOATS:
            raise CheckpointError(f"{source}: prefix_encoder.{name} is {tensors[name].dtype}, no trained prefix.")
        if not bool(tensors[name].isfinite().all()):
            raise CheckpointError(f"{source}: prefix_encoder.{name} holds values that are NaN or infinite.")
