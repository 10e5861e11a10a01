"""Find out whether a model has forward hooks, which code that computes several layers in one call would skip."""

from collections.abc import Iterable
from typing import Any

from torch.nn.modules.module import _has_any_global_hook
from transformers.utils import output_capturing


def has_active_hooks(modules: Iterable[dict[str, Any]]) -> bool:
    """Return whether a forward hook of a module may do something in this call.

    The first call with ``output_hidden_states`` or ``output_attentions`` leaves hooks of transformers on every layer
    for good. In a call without these arguments they do nothing, and do not count here.

    Args:
        modules: the ``__dict__`` of each module.
    """
    if _has_any_global_hook():
        return True
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    hooks = [hook for module in modules for kind in kinds if module[kind] for hook in module[kind].values()]
    return bool(hooks) and not (_collects_nothing() and all(map(_is_of_transformers, hooks)))


def _is_of_transformers(hook: object) -> bool:
    return getattr(hook, "__module__", None) == output_capturing.__name__


def _collects_nothing() -> bool:
    collector = getattr(output_capturing, "_active_collector", None)  # private: unknown in a release that renames it
    return collector is not None and not collector.get()
