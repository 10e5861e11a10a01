"""Refuse transformers' own distribution of a model over ranks if it does not suit the model."""

from collections.abc import Mapping
from typing import Any

from transformers.distributed import DistributedConfig

from ..errors import UnsupportedError
from ..model.split import require_sizes


def require_distribution(config: Any, options: Mapping[str, Any]) -> None:
    """Raise UnsupportedError if the options ask transformers to distribute a model in a way that does not suit it.

    Args:
        config: the configuration of the model.
        options: arguments of ``from_pretrained``. ``distributed_config``, or its older spelling ``tp_plan`` and
            ``tp_size``, make transformers distribute the model by the plans of this package.
    """
    asked = options.get("distributed_config")
    older = {name: options[name] for name in ("tp_plan", "tp_size") if options.get(name) is not None}
    if asked is None and not older:
        return
    if not isinstance(asked, DistributedConfig):
        asked = DistributedConfig(**(older if asked is None else asked))
    if (asked.pp_size or 1) > 1:
        raise UnsupportedError(
            "transformers' own pipeline hides the ids from its later stages, which need them for GLM's mask: use "
            "glm_model.load(..., pipeline_parallel=N)."
        )
    require_sizes(config, asked.tp_size or 1, 1)
