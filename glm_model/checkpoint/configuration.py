"""Read and check the configuration of a checkpoint's folder."""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub.errors import StrictDataclassError
from transformers import GenerationConfig, PreTrainedConfig
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from ..errors import CheckpointError, GLMError, one_line
from ..kernels.packing import BITS
from ..model.configuration import ChatGLMConfig, GLM130BConfig, GLMConfig
from ..quantization.rules import QUANTIZATION_METHOD
from .boundary import reading
from .fields import CONFIGURATION, GENERATION, require_fields
from .files import CONFIG, read_json
from .unfinished import is_unfinished

_MODELS = {"chatglm": "first-generation ChatGLM-6B", "glm130b": "GLM-130B"}
_CONFIG_CLASSES: dict[str, type[GLMConfig]] = {
    config_class.model_type: config_class for config_class in (ChatGLMConfig, GLM130BConfig)
}
_TOKENS = ("bos_token_id", "eos_token_id", "mask_token_id", "gmask_token_id", "smask_token_id")
Config = TypeVar("Config", bound=PreTrainedConfig)


def require_model_type(folder: Path, known: set[str]) -> dict[str, Any]:
    """Return the fields of a folder's config.json; raise CheckpointError if it is damaged or of another model."""
    with reading(folder):
        _refuse_unconverted(folder)
    fields = read_json(folder / CONFIG)
    require_known(folder / CONFIG, fields, known)
    return fields


def require_known(source: str | PathLike[str], fields: dict[str, Any], known: set[str]) -> None:
    """Raise CheckpointError, naming ``source``, unless the model_type in the fields of a config.json is known."""
    model_type = fields.get("model_type")
    if not isinstance(model_type, str) or model_type not in known:
        raise CheckpointError(
            f"{source} says model_type {model_type!r}; this needs {' or '.join(map(repr, sorted(known)))}. "
            f"Choose a folder with a {' or '.join(_MODELS.get(kind, kind) for kind in sorted(known))} checkpoint."
        )


def read_config(folder: Path, known: Iterable[str] = tuple(_MODELS)) -> GLMConfig:
    """Return the configuration of a folder with a model of a known kind; raise CheckpointError if it cannot be one."""
    fields = require_model_type(folder, set(known))
    return config_from_fields(_CONFIG_CLASSES[fields["model_type"]], fields, folder / CONFIG)[0]


def config_from_fields(
    config_class: type[Config], fields: dict[str, Any], source: Path, **overruling: Any
) -> tuple[Config, dict[str, Any]]:
    """Make a configuration of the fields of a config.json.

    Args:
        config_class: the class of the configuration.
        fields: the content of the file.
        source: the file, for messages.
        overruling: values by name; those that name a field replace the value in the file.

    Returns:
        The configuration, and the entries of ``overruling`` that name no field.

    Raises:
        CheckpointError: a field has another type or an impossible value.
    """
    require_fields(source, fields, CONFIGURATION)
    _require_quantization(source, fields.get("quantization_config"))
    try:
        made: tuple[Config, dict[str, Any]] = config_class.from_dict(fields, return_unused_kwargs=True, **overruling)
    except GLMError:
        raise
    except (ValueError, StrictDataclassError, AttributeError) as error:  # the last for a dtype that torch does not have
        reason = one_line(" ".join(str(error).split()), 400)
        raise CheckpointError(f"{source}: {reason}. Take the file that was published with the weights.") from None
    except (TypeError, KeyError, IndexError, OverflowError) as error:
        if overruling:
            raise  # an argument of the caller may be at fault
        with reading(source):
            raise error
    _require_generation(source, fields)  # transformers takes these from here if there is no generation_config.json
    if isinstance(made[0], GLMConfig) and not overruling:
        _require_ids_in_vocabulary(source, {name: getattr(made[0], name) for name in _TOKENS}, made[0].vocab_size)
    return made


def _require_generation(source: Path, fields: dict[str, Any]) -> None:
    """Raise CheckpointError if transformers cannot make a generation configuration of the fields of a file."""
    rules = (
        GENERATION
        if source.name != CONFIG
        else {name: rule for name, rule in GENERATION.items() if name not in _TOKENS}
    )
    require_fields(source, fields, rules)
    with reading(source):
        GenerationConfig.from_dict({name: fields[name] for name in rules if name in fields})


def _require_quantization(source: Path, quantization: dict[str, Any] | None) -> None:
    """Raise CheckpointError if a ``quantization_config`` names no method, or a packing that is none."""
    if quantization is None:
        return
    method = quantization.get("quant_method")
    if not isinstance(method, str):
        raise CheckpointError(f"{source}: quantization_config names no quant_method, so the weights cannot be read.")
    if method != QUANTIZATION_METHOD:
        if method not in {"bitsandbytes", *AUTO_QUANTIZATION_CONFIG_MAPPING}:
            raise CheckpointError(
                f"{source}: quantization_config has the quant_method {method[:40]!r}, which is unknown."
            )
        return
    if type(bits := quantization.get("bits", 4)) is not int or bits not in BITS:
        raise CheckpointError(f"{source}: quantization_config.bits is {str(bits)[:40]!r}; it must be 4 or 8.")
    if not isinstance(embeddings := quantization.get("embeddings", False), bool):
        raise CheckpointError(
            f"{source}: quantization_config.embeddings is {str(embeddings)[:40]!r}, not true or false."
        )


def _require_ids_in_vocabulary(source: Path, fields: dict[str, Any], vocab_size: int | None) -> None:
    """Raise CheckpointError if a special token has no row in the embedding."""
    for name in _TOKENS:
        value = fields.get(name)
        ids = value if isinstance(value, list) else [value]
        if vocab_size is not None and any(token is not None and token >= vocab_size for token in ids):
            raise CheckpointError(
                f"{source}: {name} is {value}, but vocab_size is {vocab_size}: there is no such token. Take the file "
                "that was published with the weights."
            )


def require_readable(folder: Path, config: PreTrainedConfig | None) -> None:
    """Raise CheckpointError if a JSON file of a folder, which transformers reads by itself, is damaged.

    Its own messages name neither the file nor the field.

    Args:
        folder: the checkpoint's folder.
        config: the configuration of the model; None if there is none yet.
    """
    generation = folder / "generation_config.json"
    with reading(generation):
        if generation.exists():
            fields = read_json(generation)
            _require_generation(generation, fields)
            _require_ids_in_vocabulary(generation, fields, getattr(config, "vocab_size", None))
    adapter = folder / "adapter_config.json"
    with reading(adapter):
        if adapter.exists():
            read_json(adapter)


def _refuse_unconverted(folder: Path) -> None:
    if is_unfinished(folder):
        raise CheckpointError(
            f"{folder} is of a conversion that has not finished. Run its command again; the folder that it makes, "
            "without '.partial', is there when it is whole."
        )
    if (folder / "latest").is_file() and not (folder / CONFIG).exists():
        raise CheckpointError(
            f"{folder} is an archive of SwissArmyTransformer. Convert it once, with 'python -m glm_model.conversion "
            f"sat {folder} DST', and load DST."
        )
