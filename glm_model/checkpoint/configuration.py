"""The configuration of a checkpoint's folder, read with suspicion."""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from ..errors import CheckpointError
from .files import CONFIG, read_json
from .unfinished import is_unfinished

_MODELS = {"chatglm": "first-generation ChatGLM-6B", "glm130b": "GLM-130B"}


def require_model_type(folder: Path, known: set[str]) -> dict[str, Any]:
    """The fields of a folder's config.json; raises CheckpointError if it is damaged or of another kind of model."""
    _refuse_unconverted(folder)
    fields = read_json(folder / CONFIG)
    require_known(folder / CONFIG, fields, known)
    return fields


def require_known(source: str | PathLike[str], fields: dict[str, Any], known: set[str]) -> None:
    model_type = fields.get("model_type")
    if not isinstance(model_type, str) or model_type not in known:
        raise CheckpointError(
            f"{source} says model_type {model_type!r}; this needs {' or '.join(map(repr, sorted(known)))}. "
            f"Choose a folder with a {' or '.join(_MODELS.get(kind, kind) for kind in sorted(known))} checkpoint."
        )


def read_config(folder: Path, known: Iterable[str] = tuple(_MODELS)) -> Any:
    """The configuration of a folder with a model of a known kind; raises CheckpointError if it cannot be one."""
    require_model_type(folder, set(known))
    try:
        return AutoConfig.from_pretrained(folder)
    except (StrictDataclassError, AttributeError) as error:  # the latter for a torch_dtype that torch does not have
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{folder / CONFIG}: {reason}. Take the file that was published with the weights."
        ) from None


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
