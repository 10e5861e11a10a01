"""Let accelerate and Trainer take published names for the models of this package, in files and in device maps.

accelerate's ``load_checkpoint_in_model`` and transformers' ``load_sharded_checkpoint`` compare the names in a file with
those of the model before they call any of its methods, and ``dispatch_model`` does so with a device map. None has a
hook for other names, so these functions are wrapped. For a model of another package the wrappers do nothing.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import accelerate
import accelerate.big_modeling
import accelerate.utils
import accelerate.utils.modeling
import transformers.trainer_utils
from accelerate.utils import set_module_tensor_to_device
from torch import Tensor

from ..errors import CheckpointError
from .keys import PREFIX_ENCODER, own_name
from .state_dicts import PublishedNames, keeps_dtype, listed, own_device_map, own_names, own_tensors

_ACCELERATE = (accelerate.utils.modeling, accelerate, accelerate.utils, accelerate.big_modeling)


@dataclass
class _Reading:
    """A model that accelerate reads files into, and the tensors of them that it must not cast."""

    model: PublishedNames
    kept: dict[str, Tensor] = field(default_factory=dict)


_READING: ContextVar[_Reading | None] = ContextVar("what accelerate reads", default=None)


def register() -> None:
    """Wrap the functions in every module that has them."""
    trainers = [transformers.trainer_utils, *filter(None, [sys.modules.get("transformers.trainer")])]
    for places, name, wrapper in (
        (_ACCELERATE, "load_state_dict", _with_own_names_in_files),
        (_ACCELERATE, "load_checkpoint_in_model", _with_own_names_in_model),
        (_ACCELERATE, "check_device_map", _with_own_names_in_map),
        (trainers, "load_sharded_checkpoint", _with_own_names_in_shards),
    ):
        original = getattr(places[0], name)
        wrapped = wrapper(original)
        for place in places:
            if getattr(place, name, None) is original:
                setattr(place, name, wrapped)


def _with_own_names_in_files(load_state_dict: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    @wraps(load_state_dict)
    def wrapped(*args: Any, **kwargs: Any) -> dict[str, Any]:
        tensors = load_state_dict(*args, **kwargs)
        reading = _READING.get()
        if reading is None:
            return tensors
        own = own_tensors(reading.model, tensors)
        reading.kept.update({name: own[name] for name in own if keeps_dtype(reading.model, name)})
        return own

    return wrapped


def _with_own_names_in_model(load_checkpoint: Callable[..., None]) -> Callable[..., None]:
    @wraps(load_checkpoint)
    def wrapped(model: Any, checkpoint: Any, device_map: Any = None, *args: Any, **kwargs: Any) -> None:
        is_ours = isinstance(model, PublishedNames)
        own_map = own_device_map(model, device_map) if is_ours and device_map is not None else device_map
        with _read_into(model) if is_ours else nullcontext():
            load_checkpoint(model, checkpoint, own_map, *args, **kwargs)

    return wrapped


@contextmanager
def _read_into(model: PublishedNames) -> Iterator[None]:
    """Rename what accelerate reads in the context; at the end give back what it has rounded and must not."""
    reading = _Reading(model)
    token = _READING.set(reading)
    try:
        yield
    finally:
        _READING.reset(token)
    for name, value in reading.kept.items():
        parameter = model.get_parameter(name)
        if parameter.dtype != value.dtype and parameter.dtype.itemsize <= value.dtype.itemsize:
            given = None if parameter.is_meta else value  # on the disk it is as it was
            set_module_tensor_to_device(model, name, parameter.device, given, dtype=value.dtype)


def _with_own_names_in_map(check_device_map: Callable[..., None]) -> Callable[..., None]:
    @wraps(check_device_map)
    def wrapped(model: Any, device_map: dict[str, Any]) -> None:
        if isinstance(model, PublishedNames):
            own = own_device_map(model, device_map)
            check_device_map(model, own)
            device_map.update(own)  # what accelerate goes on with; the published names in it match no module
        else:
            check_device_map(model, device_map)

    return wrapped


def _with_own_names_in_shards(load_sharded: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(load_sharded)
    def wrapped(model: Any, folder: Any, strict: bool = True, prefer_safe: bool = True) -> Any:
        if not isinstance(model, PublishedNames):
            return load_sharded(model, folder, strict, prefer_safe)
        result = load_sharded(model, folder, False, prefer_safe)
        found = own_names(model, result.unexpected_keys)  # by the names in the file
        found_own = {own for own in found.values() if own in result.missing_keys}
        found_own |= {tied for tied, source in model.all_tied_weights_keys.items() if source in found_own}
        missing = [name for name in result.missing_keys if name not in found_own]
        unexpected = [name for name, own in found.items() if own not in found_own]
        lacking = [name for name in missing if strict or not name.startswith(own_name(PREFIX_ENCODER))]
        if lacking or (strict and unexpected):
            what = f"lacks {listed(lacking)}" if lacking else f"has {listed(unexpected)}, which the model has not"
            raise CheckpointError(f"{folder}: the checkpoint {what}. It is incomplete, or of another model.")
        return type(result)(missing, unexpected)

    return wrapped
