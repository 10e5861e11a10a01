"""Finds the configuration of the model to plan for: a preset by its name, or the config.json of a folder."""

import json
from pathlib import Path
from typing import Any

from ..checkpoint.configuration import read_config
from ..model.configuration import ChatGLMConfig, GLM130BConfig, GLMConfig

_ARCHITECTURES: tuple[type[GLMConfig], ...] = (ChatGLMConfig, GLM130BConfig)
PRESETS = sorted(name for architecture in _ARCHITECTURES for name in architecture.presets)


def preset(name: str, **overrides: Any) -> GLMConfig:
    """Return the configuration of a published model, with ``overrides`` as its fields. Raise ValueError if unknown."""
    for architecture in _ARCHITECTURES:
        if name in architecture.presets:
            return architecture.preset(name, **overrides)
    raise ValueError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")


def find_config(name: str) -> GLMConfig:
    """Return the configuration of a preset, or of a folder with a config.json; the folder needs no weights.

    Raises:
        ValueError: ``name`` is neither a preset nor a folder.
        CheckpointError: config.json is missing, damaged or of another model.
    """
    if name in PRESETS:
        return preset(name)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{name!r} is no folder and none of the presets {', '.join(PRESETS)}")
    config: GLMConfig = read_config(folder)
    return config


def with_fields(config: GLMConfig, **fields: Any) -> GLMConfig:
    """Return a copy of a configuration with some fields changed."""
    return type(config).from_dict({**config.to_dict(), **fields})


def to_key(config: GLMConfig) -> str:
    """Return a text that is equal for equal configurations, as a key of a cache."""
    return json.dumps(config.to_dict(), sort_keys=True)


def from_key(key: str) -> GLMConfig:
    """Return the configuration of which :func:`to_key` made the key."""
    fields = json.loads(key)
    (architecture,) = (known for known in _ARCHITECTURES if known.model_type == fields["model_type"])
    return architecture.from_dict(fields)
