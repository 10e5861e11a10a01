"""Register generator functions that all ranks of a model run when rank 0 calls them."""

import inspect
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Protocol, TypeVar

from .runtime import Runtime

Function = TypeVar("Function", bound=Callable[..., Iterator[object]])

FUNCTIONS: dict[str, Callable[..., Iterator[object]]] = {}
"""The registered functions by the name that rank 0 sends to the other ranks."""


class _Running(Protocol):
    """A model that has runtime state."""

    runtime: Runtime


def on_every_rank(function: Function) -> Function:
    """Decorate a generator function of (model, tokenizer, ..., should_stop) so that a call on rank 0 runs on all ranks.

    The function must do the same for the same arguments and the same random numbers, and raise ValueError for bad input
    before the model runs.
    """
    name = f"{function.__module__}.{function.__qualname__}"
    signature = inspect.signature(function)
    FUNCTIONS[name] = function

    @wraps(function)
    def call(model: _Running, *args: object, **kwargs: object) -> Iterator[object]:
        if model.runtime.leader is None:
            return function(model, *args, **kwargs)
        return model.runtime.leader.stream(name, dict(signature.bind(model, *args, **kwargs).arguments))

    return call  # type: ignore[return-value]
