"""Make the other ranks repeat the forward passes of rank 0, which serves the users.

Rank 0 alone chooses tokens and decides who joins, who leaves and who has to stop. The others are sent the ids and
positions of every pass.
"""

import atexit
import logging
from contextlib import suppress
from typing import Any

from torch import distributed as dist

from .watch import Watch, end_job
from .world import World

logger = logging.getLogger(__name__)


def lead_or_follow(model: Any, passes: object) -> bool:
    """Return True at once on the rank that serves the user; on the others follow it, and return False when it ends.

    Args:
        model: a model that several ranks hold together.
        passes: the object of this rank whose methods rank 0 calls; see :class:`_Leader`.
    """
    world: World = model.runtime.world
    watch = Watch()
    if world.rank == 0:
        model.runtime.leader = _Leader(world)
        atexit.register(_dismiss, world, watch)
        return True
    try:
        _follow(world, passes)
    except Exception as error:
        logger.exception("rank %d cannot go on", world.rank)
        end_job(error)
    watch.close()
    world.leave()
    return False


class _Leader:
    """The leading role of rank 0: it sends its calls to the other ranks."""

    def __init__(self, world: World) -> None:
        self._world = world

    def call(self, own: object, name: str, arguments: tuple[Any, ...]) -> Any:
        """Call a method on all ranks, and return its result on this one.

        An error leaves the ranks at different points, where they would wait for each other forever, so it ends the job.

        Args:
            own: the object of this rank; the others have one like it.
            name: the method.
            arguments: its arguments, which are sent.
        """
        try:
            dist.broadcast_object_list([(name, arguments)], src=0, group=self._world.control)
            return getattr(own, name)(*arguments)
        except BaseException as error:
            logger.exception("rank 0 cannot go on")
            end_job(error)


def _follow(world: World, passes: object) -> None:
    """Run the calls of rank 0 until it ends."""
    while True:
        request: list[Any] = [None]
        dist.broadcast_object_list(request, src=0, group=world.control)
        if request[0] is None:
            return
        name, arguments = request[0]
        getattr(passes, name)(*arguments)


def _dismiss(world: World, watch: Watch) -> None:
    """Tell the other ranks that rank 0 ends, so that they can leave too."""
    watch.close()
    with suppress(RuntimeError):  # a rank that has died cannot receive it
        dist.broadcast_object_list([None], src=0, group=world.control)
    world.leave()
