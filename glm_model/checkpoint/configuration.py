"""Read and check the configuration of a checkpoint's folder."""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from ..errors import CheckpointError
from ..model.configuration import ChatGLMConfig, GLM130BConfig, GLMConfig
from .files import CONFIG, read_json
from .unfinished import is_unfinished

_MODELS = {"chatglm": "first-generation ChatGLM-6B", "glm130b": "GLM-130B"}
_CONFIG_CLASSES: dict[str, type[GLMConfig]] = {
    config_class.model_type: config_class for config_class in (ChatGLMConfig, GLM130BConfig)
}
Config = TypeVar("Config", bound=PreTrainedConfig)


def require_model_type(folder: Path, known: set[str]) -> dict[str, Any]:
    """Return the fields of a folder's config.json; raise CheckpointError if it is damaged or of another model."""
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
    try:
        made: tuple[Config, dict[str, Any]] = config_class.from_dict(fields, return_unused_kwargs=True, **overruling)
    except (StrictDataclassError, AttributeError) as error:  # the latter for a torch_dtype that torch does not have
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{source}: {reason}. Take the file that was published with the weights.") from None
    return made


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
