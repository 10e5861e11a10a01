"""Loads a model from a folder on this machine: checks it, puts it on a device and makes it ready to run."""

import os
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack, cast

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from torch import nn
from transformers import AutoModelForCausalLM

from .checkpoint.boundary import reading
from .checkpoint.configuration import read_config
from .checkpoint.fields import TOKENIZER, require_fields, require_ids
from .checkpoint.files import CONFIG, read_json, stored_tensors, weight_files
from .checkpoint.free_memory import free_bytes
from .checkpoint.json_file import require_size
from .checkpoint.keys import PREFIX_ENCODER
from .checkpoint.prefix import load_prefix
from .checkpoint.reading import shared_over
from .errors import CheckpointError, UnsupportedError
from .kernels.dispatch import Precision, describe
from .model.decoder import GLMForCausalLM
from .model.runtime import World
from .optional_parts import is_present
from .options import DEVICE_MAPS, DTYPE_NAMES, QUANTIZATION_BITS, LoadOptions, LoadSettings
from .process.leftovers import temporary_folder
from .quantization.linear import QuantizedLinear
from .quantization.quantizer import GLMQuantizationConfig
from .text.tokenizer import ChatGLMTokenizer

__all__ = [
    "DEMO_MODEL",
    "DEVICE_MAPS",
    "DTYPES",
    "free_bytes",
    "kernel_in_use",
    "lead_or_follow",
    "load",
    "rounds_activations",
    "set_precision",
]

_INSTALLED_DEMO_MODEL = Path(__file__).parent / "demo_model"
DEMO_MODEL = (
    _INSTALLED_DEMO_MODEL if _INSTALLED_DEMO_MODEL.is_dir() else Path(__file__).resolve().parents[1] / "models" / "demo"
)
"""The folder of the demo model: models/demo of this repository, which a wheel installs into the package."""

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPE_NAMES}
_TOKENIZER_FILES = {"tokenizer_config.json": TOKENIZER, "special_tokens_map.json": TOKENIZER}


def load(
    path: str | Path = DEMO_MODEL, *, options: LoadOptions | None = None, **settings: Unpack[LoadSettings]
) -> tuple[Any, ChatGLMTokenizer]:
    """Return a model in evaluation mode and its tokenizer.

    Args:
        path: folder in the published layout: config.json, weights (safetensors or .bin, sharded or single),
            ice_text.model and tokenizer_config.json; or the OWNER/NAME of one in the Hugging Face cache. Nothing is
            downloaded.
        options: how to load it; see :class:`glm_model.options.LoadOptions`.
        settings: fields such as ``quantize="int4", device="cpu"``; they replace those of ``options``.

    Raises:
        CheckpointError: the folder, a file or a tensor is missing, damaged or of another model.
        TokenizerError: the tokenizer's files cannot be used.
        UnsupportedError: the model is ChatGLM2 or later.
        ValueError: a setting has a value that is not allowed, or this machine lacks the device.
        TypeError: ``LoadOptions`` has no such setting.
    """
    options = replace(options or LoadOptions(), **settings)
    world = _world(options)
    where = _device(options.device) if world is None else world.device
    working_dtype = _dtype(options.dtype, where)
    folder = _folder(path)
    config = read_config(folder)
    quantization = _quantization(options.quantize, options.quantize_head and not config.quantization_bit)
    tokenizer = _tokenizer(folder)
    _require_same_vocabulary(folder, config, tokenizer)
    if options.prefix is None and getattr(config, "pre_seq_len", None):
        _require_prefix(folder)
    scratch = None
    if options.device_map is not None and options.offload_folder is None:
        scratch = temporary_folder("glm-offload-")
        options = replace(options, offload_folder=scratch.name)
    with shared_over(world):
        model = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=working_dtype, **quantization, **_placed(where, options)
        )
    if scratch is not None:
        weakref.finalize(model, scratch.cleanup)  # also keeps the folder while the model exists
    _round_layer_norms(model, working_dtype)
    if options.prefix is not None:
        load_prefix(model, options.prefix)
    if world is not None:
        from .parallel.distribute import finish_part

        finish_part(model)
    if options.quantize_head:
        model.quantize_head()
    model.runtime.cache_dtype = None if options.cache_dtype is None else _dtype(options.cache_dtype, where)
    set_precision(model, cast(Precision, options.precision))
    return model.eval(), tokenizer


def _world(options: LoadOptions) -> World | None:
    """Join the other ranks and return the world of all; return None for a model on one process."""
    if options.tensor_parallel == options.pipeline_parallel == 1:
        return None
    if not is_present("glm_model.parallel"):
        raise UnsupportedError("this installation has no glm_model.parallel: a model is on one process alone")
    from .parallel.world import join_world

    return join_world(options.tensor_parallel, options.pipeline_parallel, options.device)


def lead_or_follow(model: GLMForCausalLM, tokenizer: ChatGLMTokenizer) -> bool:
    """Return True at once on rank 0, which serves the user; on every other rank compute with it, then return False.

    A model that is on one rank alone returns True.

    Args:
        model, tokenizer: the results of :func:`load`.
    """
    if model.runtime.world is None:
        return True
    from .generation.row_passes import CachedRows
    from .parallel.following import lead_or_follow

    return lead_or_follow(model, CachedRows(model))


def _placed(where: torch.device, options: LoadOptions) -> dict[str, Any]:
    """Return the arguments of ``from_pretrained`` that place the model on its devices."""
    if options.device_map is None:
        return {} if where.type == "cpu" else {"device_map": {"": where}}
    return {
        "device_map": options.device_map,
        "max_memory": options.max_memory,
        "offload_folder": str(options.offload_folder),
    }


def _quantization(name: str | None, head: bool) -> dict[str, GLMQuantizationConfig]:
    if name is None:
        if head:  # the loaded model would raise this too, but only after minutes
            raise ValueError("quantize_head goes with quantize: say how many bits, int4 or int8")
        return {}
    return {"quantization_config": GLMQuantizationConfig(QUANTIZATION_BITS[name], embeddings=head)}


def set_precision(model: nn.Module, precision: Precision) -> None:
    """Set the precision of all packed layers of a model; see :data:`glm_model.kernels.dispatch.Precision`."""
    for module in model.modules():
        if isinstance(module, QuantizedLinear):
            module.precision = precision


def _folder(path: str | Path) -> Path:
    """Return the folder that a path or the name of a cached repository means. Raise CheckpointError if none exists."""
    folder = Path(os.path.expanduser(path))  # noqa: PTH111 - Path's own raises where there is no such user
    with reading(folder):
        if folder.is_dir():
            return folder
    if folder == DEMO_MODEL:
        raise CheckpointError(
            f"the demo model is not at {folder}: it comes with a clone of the repository. Name the folder of a model."
        )
    if folder.is_file():
        raise CheckpointError(f"{folder} is a file; name the folder that holds it, with config.json and the tokenizer.")
    try:
        return Path(snapshot_download(folder.as_posix(), local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        raise CheckpointError(
            f"there is no folder {folder}. Nothing is downloaded here: get the checkpoint first "
            "(hf download OWNER/NAME --local-dir DIR) and name its folder."
        ) from None


def _tokenizer(folder: Path) -> ChatGLMTokenizer:
    with reading(f"the tokenizer in {folder}"):
        for name, rules in _TOKENIZER_FILES.items():
            if (folder / name).exists():  # names a damaged file and field in its error, which transformers does not
                require_fields(folder / name, read_json(folder / name), rules)
        if (added := folder / "added_tokens.json").exists():
            require_ids(added, read_json(added))
        for template in (*folder.glob("*.jinja"), *folder.glob("additional_chat_templates/*.jinja")):
            with reading(template):
                if template.is_file():
                    require_size(template)
                    template.read_text(encoding="utf-8")
        tokenizer: ChatGLMTokenizer = ChatGLMTokenizer.from_pretrained(folder)
        return tokenizer


def _device(name: str) -> torch.device:
    """Return the device of this name; for "auto" an accelerator if there is one. Raise ValueError if it is missing."""
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    device = torch.device(name)
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    available = counts.get(device.type, 0)
    if (device.index or 0) >= available:
        raise ValueError(
            f"device {name!r} is not there: this machine has {available} of {device.type}. Use 'cpu' or 'auto'."
        )
    return device


def rounds_activations(model: GLMForCausalLM) -> bool:
    """Return whether a packed model on the CPU rounds the float32 numbers that its weights are multiplied with."""
    packed = _packed_layer(model)
    if packed is None or model.model.activation_dtype != torch.float32:
        return False
    return packed.precision == "fast" and packed.weight.device.type == "cpu"


def kernel_in_use(model: nn.Module) -> str | None:
    """Return a line that names the kernel of products with packed weights; None for a model without such weights."""
    packed = _packed_layer(model)
    return None if packed is None else describe(packed.precision, packed.weight.device)


def _packed_layer(model: nn.Module) -> QuantizedLinear | None:
    """Return the first packed layer, whose precision and device stand for all."""
    return next((module for module in model.modules() if isinstance(module, QuantizedLinear)), None)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    return DTYPES[name]


def _require_same_vocabulary(folder: Path, config: Any, tokenizer: ChatGLMTokenizer) -> None:
    """Raise CheckpointError if configuration and tokenizer have different ids for the special tokens.

    A tokenizer of the other vocabulary layout (150528 or 130528 words) would make the model write nonsense.
    """
    for field in ("mask_token_id", "gmask_token_id", "bos_token_id"):
        if getattr(config, field) != getattr(tokenizer, field):
            raise CheckpointError(
                f"{folder}: {field} is {getattr(config, field)} in {CONFIG} but {getattr(tokenizer, field)} in the "
                "tokenizer: the two are of different releases (150528 or 130528 words). Take ice_text.model, "
                f"tokenizer_config.json and {CONFIG} from the same release as the weights."
            )


def _require_prefix(folder: Path) -> None:
    """Raise CheckpointError if a folder has no P-Tuning prefix though its configuration says so.

    ``from_pretrained`` would add an untrained one, as the fine-tuning script needs it; answers would be nonsense.
    """
    if not any(name.startswith(PREFIX_ENCODER) for name in stored_tensors(weight_files(folder))):
        raise CheckpointError(
            f"{folder / CONFIG} asks for a P-Tuning prefix (pre_seq_len), but the weights have none: name the folder "
            "that the fine-tuning script has written as the prefix, or remove pre_seq_len."
        )


def _round_layer_norms(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert all LayerNorms to ``dtype``, as the published ``.half()`` does; loading leaves them in float32."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.to(dtype)
