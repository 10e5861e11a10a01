"""How a loaded model runs: what is neither network nor configuration, and is never saved."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch


class World(Protocol):
    """The ranks that hold one model together; see :mod:`glm_model.parallel.world`."""

    @property
    def rank(self) -> int:
        """The number of this process."""

    @property
    def size(self) -> int:
        """How many processes there are."""

    @property
    def device(self) -> torch.device:
        """Where this process has its part."""


class Leader(Protocol):
    """Rank 0 of several, which has the others repeat what it is asked to do."""

    def stream(self, name: str, arguments: dict[str, Any]) -> Iterator[Any]:
        """Yield what the function of this name yields, while the other ranks run it too."""


@dataclass(eq=False)
class Runtime:
    """The state that a model keeps while it runs; every model has one, ``model.runtime``.

    Attributes:
        cache_dtype: dtype to store keys and values in where the caller gives no cache; None is that of the activations.
        cuda_graphs: whether an answer that is written on one GPU is decoded as CUDA graphs.
        world: the ranks that hold the other parts of the model; None if this process holds all of it.
        leader: what passes requests on to those ranks; None if there are none, or this is not rank 0.
    """

    cache_dtype: torch.dtype | None = None
    cuda_graphs: bool = True
    world: World | None = None
    leader: Leader | None = None
