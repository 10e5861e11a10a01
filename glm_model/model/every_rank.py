"""Functions that all ranks of a model run when rank 0 is asked for them."""

import inspect
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Iterator[Any]])

FUNCTIONS: dict[str, Callable[..., Iterator[Any]]] = {}
"""The functions by the name under which rank 0 asks for them."""


def on_every_rank(function: Function) -> Function:
    """Have all ranks run a generator function of (model, tokenizer, ..., should_stop) that rank 0 is asked for.

    The function must do the same for the same arguments and the same random numbers, and raise ValueError for bad input
    before the model runs.
    """
    name = f"{function.__module__}.{function.__qualname__}"
    signature = inspect.signature(function)
    FUNCTIONS[name] = function

    @wraps(function)
    def call(model: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        if model.runtime.leader is None:
            return function(model, *args, **kwargs)
        return model.runtime.leader.stream(name, dict(signature.bind(model, *args, **kwargs).arguments))

    return call  # type: ignore[return-value]
