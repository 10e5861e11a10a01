"""Adapt to public names of transformers that differ between the releases this package runs on.

transformers 5.24 renamed ``past_key_values`` to ``cache``: the argument of a model's forward pass and of the hooks of
``generate``, and the field of a model's outputs.
"""

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.generic import ModelOutput, TransformersKwargs

from ..errors import UnsupportedError

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

_PACKED_SAMPLES = (
    "several samples in one row (DataCollatorWithFlattening, TRL's packing) would see each other, because each has a "
    "bidirectional context of its own. Pad a batch of samples instead, or pass a 4-D attention_mask with position_ids"
)
# Arguments that transformers knows and GLM cannot follow; None and False ask for nothing.
_REFUSED_ARGUMENTS = {
    **dict.fromkeys(("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"), _PACKED_SAMPLES),
    "is_causal": "the context is bidirectional; leave it out",
    "output_router_logits": "GLM is no mixture of experts and has no router; leave it out",
}


def refuse_arguments(arguments: Mapping[str, object]) -> None:
    """Refuse further keyword arguments of ``forward`` that would vanish.

    Raises:
        TypeError: an argument is known neither to GLM nor to transformers.
        UnsupportedError: GLM cannot do what an argument asks for.
    """
    for name, value in arguments.items():
        if name not in _KNOWN_ARGUMENTS:
            raise TypeError(f"forward() got an unexpected keyword argument {name!r}")
        if name in _REFUSED_ARGUMENTS and value is not None and value is not False:
            raise UnsupportedError(f"{name}: {_REFUSED_ARGUMENTS[name]}.")


def refuse_packed_samples(position_ids: Tensor, attention_mask: Tensor | None) -> None:
    """Raise UnsupportedError if a row of 1-D positions [batch, length] counts from 0 more than once.

    A 4-D mask keeps samples apart, and is taken as it is. A compiled pass is not checked: it cannot look at values.
    """
    given_mask = attention_mask is not None and attention_mask.ndim == 4
    if position_ids.ndim != 2 or given_mask or torch.compiler.is_compiling() or position_ids.is_meta:
        return
    starts = (position_ids[:, :-1] == 0) & (position_ids[:, 1:] == 1)
    if bool((starts.sum(dim=-1) > 1).any()):
        raise UnsupportedError(f"position_ids count from 0 several times in a row: {_PACKED_SAMPLES}.")
