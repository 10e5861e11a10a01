"""transformers' own way to share a model out while it is read, refused where it does not suit the model."""

from collections.abc import Mapping
from typing import Any

from transformers.distributed import DistributedConfig

from ..errors import UnsupportedError
from ..model.split import require_sizes


def require_distribution(config: Any, options: Mapping[str, Any]) -> None:
    """Raise UnsupportedError if transformers is asked to share a model out in a way that does not suit it.

    Args:
        config: of the model.
        options: of ``from_pretrained``, of which ``distributed_config`` or its older spelling, ``tp_plan`` and
            ``tp_size``, ask for transformers' way to the plans of this package.
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
