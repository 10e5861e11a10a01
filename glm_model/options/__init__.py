"""Defines each setting once: name, default, allowed values and help, for Python, command lines and the environment.

``LoadOptions`` says how a model is loaded, ``SamplingOptions`` how an answer is written, ``FillOptions`` how blanks are
filled. ``settings`` describes and checks their fields, ``arguments`` makes flags of them.

The files of this folder import only the standard library and each other. ``import glm_model`` takes seconds, because it
registers the architectures with transformers, but the front-ends must answer ``--help`` at once. So they run the files
of this folder as a package of another name (``app/package_settings.py``), without importing ``glm_model``.
"""

from .answers import (
    PUBLISHED_TOP_K,
    FillOptions,
    FinishReason,
    SamplingOptions,
    Strategy,
    is_greedy,
    require_seed,
    sampling_kwargs,
)
from .arguments import Parser, add_hidden_alias, add_setting, add_settings, flag, help_text, with_sentence
from .exit_status import EXIT_STATUS, FAILED, INTERRUPTED, SUCCEEDED, WRONG_COMMAND_LINE
from .loading import DEVICE_MAPS, DTYPE_NAMES, QUANTIZATION_BITS, DeviceMap, LoadOptions, LoadSettings
from .settings import (
    Allowed,
    Choice,
    Instance,
    PathName,
    Real,
    Setting,
    Switch,
    Text,
    Whole,
    check_settings,
    read_setting,
    setting,
    settings_of,
)

__all__ = [
    "DEVICE_MAPS",
    "DTYPE_NAMES",
    "EXIT_STATUS",
    "FAILED",
    "INTERRUPTED",
    "PUBLISHED_TOP_K",
    "QUANTIZATION_BITS",
    "SUCCEEDED",
    "WRONG_COMMAND_LINE",
    "Allowed",
    "Choice",
    "DeviceMap",
    "FillOptions",
    "FinishReason",
    "Instance",
    "LoadOptions",
    "LoadSettings",
    "Parser",
    "PathName",
    "Real",
    "SamplingOptions",
    "Setting",
    "Strategy",
    "Switch",
    "Text",
    "Whole",
    "add_hidden_alias",
    "add_setting",
    "add_settings",
    "check_settings",
    "flag",
    "help_text",
    "is_greedy",
    "read_setting",
    "require_seed",
    "sampling_kwargs",
    "setting",
    "settings_of",
    "with_sentence",
]
