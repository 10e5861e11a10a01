"""Adapt to public names of transformers that differ between the releases this package runs on.

transformers 5.24 renamed ``past_key_values`` to ``cache``: the argument of a model's forward pass and of the hooks of
``generate``, and the field of a model's outputs.
"""

from collections.abc import Iterable
from typing import TypeVar

from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.generic import ModelOutput, TransformersKwargs

Output = TypeVar("Output", bound=ModelOutput)

OLD_CACHE = "past_key_values"
CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else OLD_CACHE
"""The name of a cache in the installed transformers."""


def output_with_cache(output_class: type[Output], cache: Cache | None, **fields: object) -> Output:
    """Return a model output of this class with these fields, and the cache under the installed transformers' name."""
    return output_class(**{CACHE: cache}, **fields)


def cache_of(output: ModelOutput) -> Cache | None:
    """Return the cache that a model output holds, or None."""
    cache: Cache | None = output.get(CACHE)
    return cache


def one_cache(cache: Cache | None, past_key_values: Cache | None) -> Cache | None:
    """Return the cache that a caller has passed under its new name or its old one; None if there is none.

    Raises:
        ValueError: both are given.
    """
    if cache is not None and past_key_values is not None:
        raise ValueError("cache and past_key_values are two names of one argument: pass one of them")
    return past_key_values if cache is None else cache


_KNOWN_ARGUMENTS = frozenset(TransformersKwargs.__annotations__) | {"return_dict"}


def refuse_unknown_arguments(names: Iterable[str]) -> None:
    """Raise TypeError if one of these keyword arguments of ``forward`` is known neither to GLM nor to transformers."""
    for name in names:
        if name not in _KNOWN_ARGUMENTS:
            raise TypeError(f"forward() got an unexpected keyword argument {name!r}")
