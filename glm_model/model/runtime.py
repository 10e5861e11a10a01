"""Define the runtime state of a loaded model, which belongs neither to its weights nor to its configuration.

It is never saved.
"""

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
        """The number of processes."""

    @property
    def device(self) -> torch.device:
        """The device of this process's part of the model."""

    @property
    def has_stages(self) -> bool:
        """Whether a process holds some of the layers only."""


class Leader(Protocol):
    """Rank 0 of several, which makes the other ranks run the same calls."""

    def call(self, own: object, name: str, arguments: tuple[Any, ...]) -> Any:
        """Call a method on all ranks, here that of ``own``, and return its result on this one."""


@dataclass(eq=False)
class Runtime:
    """The state of a model while it runs; every model has one as ``model.runtime``.

    Attributes:
        cache_dtype: dtype to store keys and values in if the caller gives no cache; None is that of the activations.
        cuda_graphs: whether decoding on one GPU may use CUDA graphs.
        world: the ranks that hold the other parts of the model; None if this process holds all of it.
        leader: sends calls to the other ranks; None if there are none, or if this is not rank 0.
    """

    cache_dtype: torch.dtype | None = None
    cuda_graphs: bool = True
    world: World | None = None
    leader: Leader | None = None
