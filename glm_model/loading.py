"""The one way in which the front-ends get a model: a folder on this machine, checked, on a device, ready to run."""

import os
import tempfile
import weakref
from pathlib import Path
from typing import Any, cast, get_args

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from torch import nn
from transformers import AutoModelForCausalLM

from .checkpoint.configuration import read_config
from .checkpoint.files import CONFIG, read_json, stored_tensors, weight_files
from .checkpoint.keys import PREFIX_ENCODER
from .checkpoint.prefix import load_prefix
from .checkpoint.reading import shared_over
from .errors import CheckpointError
from .kernels.dispatch import Precision, describe
from .parallel.distribute import finish_part
from .parallel.following import lead_or_follow
from .parallel.world import World, join_world
from .quantization.linear import QuantizedLinear
from .quantization.quantizer import GLMQuantizationConfig
from .text.tokenizer import ChatGLMTokenizer

__all__ = ["DEMO_MODEL", "DEVICE_MAPS", "DTYPES", "kernel_in_use", "lead_or_follow", "load", "set_precision"]

_INSTALLED_DEMO_MODEL = Path(__file__).parent / "demo_model"
DEMO_MODEL = (
    _INSTALLED_DEMO_MODEL if _INSTALLED_DEMO_MODEL.is_dir() else Path(__file__).resolve().parents[1] / "models" / "demo"
)
"""The folder of the demo model: models/demo of this repository, which a wheel installs into the package."""

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
_QUANTIZATION_BITS = {"int8": 8, "int4": 4}
_TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def load(
    path: str | Path = DEMO_MODEL,
    *,
    quantize: str | None = None,
    quantize_head: bool = False,
    precision: str = "exact",
    device: str = "auto",
    dtype: str = "auto",
    cache_dtype: str | None = None,
    prefix: str | Path | None = None,
    device_map: str | dict[str, Any] | None = None,
    max_memory: dict[int | str, int | str] | None = None,
    offload_folder: str | Path | None = None,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
) -> tuple[Any, ChatGLMTokenizer]:
    """A model in evaluation mode and its tokenizer.

    Args:
        path: folder in the published layout: config.json, weights (safetensors or .bin, sharded or single),
            ice_text.model and tokenizer_config.json; or the OWNER/NAME of one in the Hugging Face cache. Nothing is
            downloaded.
        quantize: None, "int8" or "int4": a float checkpoint is packed while it loads, which takes little more memory
            than the packed model. A checkpoint that is packed already needs no such word, and takes no other one.
        quantize_head: pack the embedding and the head too, as chatglm-6b-int4-qe has them; also those of a checkpoint
            whose other layers are packed already.
        precision: "exact" or "fast", of the products with packed weights on a CPU; see
            :data:`glm_model.kernels.dispatch.Precision`.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", "mps".
        dtype: "auto" (float32 on the CPU, float16 elsewhere), "float32", "float16" or "bfloat16". In half precision
            LayerNorm is rounded too, as by the published ``.half()``.
        cache_dtype: to store the keys and values of past tokens in, one of those three; None is ``dtype``.
        prefix: a P-Tuning prefix to put on the model; see :func:`glm_model.checkpoint.prefix.load_prefix`.
        device_map: one process, several devices: "auto", "balanced", "balanced_low_0", "sequential", or a dictionary of
            modules and devices, as accelerate takes it; what the GPUs cannot hold goes to the CPU, then to the disk.
            None puts all of the model on ``device``.
        max_memory: of each device that ``device_map`` may use, such as ``{0: "20GiB", "cpu": "60GiB"}``.
        offload_folder: for weights on the disk that are not in the checkpoint as they are; a temporary one if None.
        tensor_parallel: processes that share every layer. With this and the next, this function is called by as many
            processes as their product, started by torchrun, and each gets its part of the model; see
            :func:`lead_or_follow`.
        pipeline_parallel: stages of processes that hold some of the layers each.

    Raises:
        CheckpointError: the folder, a file or a tensor is missing, damaged or of another model.
        TokenizerError: the tokenizer's files cannot be used.
        UnsupportedError: ChatGLM2 or later.
        ValueError: an unknown device or dtype, or a device that this machine lacks.
    """
    precisely = _precision(precision)
    world = _world(tensor_parallel, pipeline_parallel, device, device_map)
    where = _device(device) if world is None else world.device
    working_dtype = _dtype("dtype", dtype, where)
    stored_dtype = None if cache_dtype is None else _dtype("cache_dtype", cache_dtype, where)
    folder = _folder(path)
    config = read_config(folder)
    quantization = _quantization(quantize, quantize_head and not config.quantization_bit)
    tokenizer = _tokenizer(folder)
    _require_same_vocabulary(folder, config, tokenizer)
    if prefix is None and getattr(config, "pre_seq_len", None):
        _require_prefix(folder)
    scratch = None
    if device_map is not None and offload_folder is None:
        scratch = tempfile.TemporaryDirectory(prefix="glm-offload-")
        offload_folder = scratch.name
    placed = _placed(where, device_map, max_memory, offload_folder)
    with shared_over(world):
        model = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=working_dtype, **quantization, **placed
        )
    if scratch is not None:
        weakref.finalize(model, scratch.cleanup)  # which also keeps it for as long as the model is there
    _round_layer_norms(model, working_dtype)
    if prefix is not None:
        load_prefix(model, prefix)
    if world is not None:
        finish_part(model)
    if quantize_head:
        model.quantize_head()
    model.runtime.cache_dtype = stored_dtype
    set_precision(model, precisely)
    return model.eval(), tokenizer


def _world(tensor: int, pipeline: int, device: str, device_map: Any) -> World | None:
    if tensor == pipeline == 1:
        return None
    if device_map is not None:
        raise ValueError(
            "device_map spreads a model from one process, tensor_parallel and pipeline_parallel over several: "
            "use one or the other"
        )
    return join_world(tensor, pipeline, device)


def _placed(where: torch.device, device_map: Any, max_memory: Any, offload_folder: str | Path | None) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` that say where the model goes."""
    if device_map is None:
        return {} if where.type == "cpu" else {"device_map": {"": where}}
    if isinstance(device_map, str) and device_map not in DEVICE_MAPS:
        raise ValueError(f"device_map must be one of {', '.join(DEVICE_MAPS)}, or a dictionary; not {device_map!r}")
    return {"device_map": device_map, "max_memory": max_memory, "offload_folder": str(offload_folder)}


def _quantization(name: str | None, head: bool) -> dict[str, GLMQuantizationConfig]:
    if name is None:
        if head:  # as the loaded model would say
            raise ValueError("quantize_head goes with quantize: say how many bits, int4 or int8")
        return {}
    if name not in _QUANTIZATION_BITS:
        raise ValueError(f"quantize must be one of {', '.join(_QUANTIZATION_BITS)}, or None; not {name!r}")
    return {"quantization_config": GLMQuantizationConfig(_QUANTIZATION_BITS[name], embeddings=head)}


def _precision(name: str) -> Precision:
    if name not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}; not {name!r}")
    return cast(Precision, name)


def set_precision(model: nn.Module, precision: Precision) -> None:
    """Let all packed layers of a model compute so; see :data:`glm_model.kernels.dispatch.Precision`."""
    for module in model.modules():
        if isinstance(module, QuantizedLinear):
            module.precision = precision


def _folder(path: str | Path) -> Path:
    folder = Path(os.path.expanduser(path))  # noqa: PTH111 - Path's own raises where there is no such user
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
    for name in _TOKENIZER_FILES:
        if (folder / name).exists():
            read_json(folder / name)  # transformers would not name the file that is damaged
    tokenizer: ChatGLMTokenizer = ChatGLMTokenizer.from_pretrained(folder)
    return tokenizer


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device must be auto, cpu, cuda, cuda:N or mps, not {name!r}") from None
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    available = counts.get(device.type, 0)
    if (device.index or 0) >= available:
        raise ValueError(
            f"device {name!r} is not there: this machine has {available} of {device.type}. Use 'cpu' or 'auto'."
        )
    return device


def kernel_in_use(model: nn.Module) -> str | None:
    """One line that says what computes the products with packed weights; None for a model without any."""
    packed = next((module for module in model.modules() if isinstance(module, QuantizedLinear)), None)
    return None if packed is None else describe(packed.precision, packed.weight.device)


def _dtype(argument: str, name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    if name not in DTYPES:
        raise ValueError(f"{argument} must be one of auto, {', '.join(DTYPES)}; not {name!r}")
    return DTYPES[name]


def _require_same_vocabulary(folder: Path, config: Any, tokenizer: ChatGLMTokenizer) -> None:
    """A tokenizer of the other vocabulary layout would make the model babble."""
    for field in ("mask_token_id", "gmask_token_id", "bos_token_id"):
        if getattr(config, field) != getattr(tokenizer, field):
            raise CheckpointError(
                f"{folder}: {field} is {getattr(config, field)} in {CONFIG} but {getattr(tokenizer, field)} in the "
                "tokenizer: the two are of different releases (150528 or 130528 words). Take ice_text.model, "
                f"tokenizer_config.json and {CONFIG} from the same release as the weights."
            )


def _require_prefix(folder: Path) -> None:
    """Raise CheckpointError if a folder has no P-Tuning prefix though its configuration says so.

    ``from_pretrained`` would start it untrained, for the fine-tuning script; a front-end would babble.
    """
    if not any(name.startswith(PREFIX_ENCODER) for name in stored_tensors(weight_files(folder))):
        raise CheckpointError(
            f"{folder / CONFIG} asks for a P-Tuning prefix (pre_seq_len), but the weights have none: name the folder "
            "that the fine-tuning script has written as the prefix, or remove pre_seq_len."
        )


def _round_layer_norms(model: nn.Module, dtype: torch.dtype) -> None:
    """What the published ``.half()`` does to the LayerNorms, which a checkpoint's loading keeps in float32."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.to(dtype)
