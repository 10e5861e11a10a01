"""Let accelerate take published names for the models of this package, as keys of a device map and in files.

``load_checkpoint_in_model`` compares the names in a file with those of the model before it calls any of its methods,
and ``dispatch_model`` does so with a device map. Neither has a hook for other names, so three of accelerate's functions
are wrapped where it calls them. For a model of another package the wrappers do nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import accelerate
import accelerate.big_modeling
import accelerate.utils
import accelerate.utils.modeling
from accelerate.utils import set_module_tensor_to_device
from torch import Tensor

from .state_dicts import PublishedNames, keeps_dtype, own_device_map, own_tensors

_PLACES = (accelerate, accelerate.utils, accelerate.utils.modeling, accelerate.big_modeling)


@dataclass
class _Reading:
    """A model that accelerate reads files into, and the tensors of them that it must not cast."""

    model: PublishedNames
    kept: dict[str, Tensor] = field(default_factory=dict)


_READING: ContextVar[_Reading | None] = ContextVar("what accelerate reads", default=None)


def register() -> None:
    """Wrap accelerate's functions."""
    wrappers = (
        (_with_own_names_in_files, "load_state_dict"),
        (_with_own_names_in_model, "load_checkpoint_in_model"),
        (_with_own_names_in_map, "check_device_map"),
    )
    for wrapper, name in wrappers:
        original = getattr(accelerate.utils.modeling, name)
        wrapped = wrapper(original)
        for place in _PLACES:
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
        if not isinstance(model, PublishedNames):
            return load_checkpoint(model, checkpoint, device_map, *args, **kwargs)
        own_map = own_device_map(model, device_map) if isinstance(device_map, dict) else device_map
        with _read_into(model):
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
