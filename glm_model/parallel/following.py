"""Rank 0 is asked, every rank computes: a call of rank 0 is repeated by the others.

All ranks compute the same scores and draw from the same seed, so all choose the same tokens. Whether to stop is asked
on rank 0 alone, which tells the others after every token.
"""

import atexit
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import distributed as dist

from ..model.every_rank import FUNCTIONS
from .watch import Watch, end_job
from .world import World

logger = logging.getLogger(__name__)


def lead_or_follow(model: Any, tokenizer: Any) -> bool:
    """True on the rank that serves the user, at once; False on the others, when that rank has ended.

    Args:
        model, tokenizer: as :func:`glm_model.loading.load` gives them. True for a model that is on one rank alone.
    """
    world: World | None = model.runtime.world
    if world is None:
        return True
    watch = Watch()
    if world.rank == 0:
        model.runtime.leader = _Leader(world)
        atexit.register(_dismiss, world, watch)
        return True
    try:
        _follow(world, model, tokenizer)
    except Exception as error:
        logger.exception("rank %d cannot go on", world.rank)
        end_job(error)
    watch.close()
    world.leave()
    return False


class _Leader:
    """Rank 0, which tells the others what to run. One call at a time."""

    def __init__(self, world: World) -> None:
        self.world = world

    def stream(self, name: str, arguments: dict[str, Any]) -> Iterator[Any]:
        """What the function of this name yields, while the others run it too."""
        should_stop = arguments.pop("should_stop", lambda: False)
        own = {"model": arguments.pop("model"), "tokenizer": arguments.pop("tokenizer")}
        seed, reader_left = secrets.randbits(63), False
        stops = lambda: _agree(self.world, reader_left or should_stop())  # noqa: E731
        with _together():
            dist.broadcast_object_list([(name, seed, arguments)], src=0, group=self.world.control)
            torch.manual_seed(seed)
            steps = FUNCTIONS[name](**own, **arguments, should_stop=stops)
            try:
                for step in steps:  # noqa: UP028 - `yield from` would close them when the reader leaves
                    yield step
            finally:
                reader_left = True
                for _ in steps:  # the others are under way until they are told to stop
                    pass


def _follow(world: World, model: Any, tokenizer: Any) -> None:
    """Do what rank 0 does until it says that it ends."""
    while True:
        request: list[Any] = [None]
        dist.broadcast_object_list(request, src=0, group=world.control)
        if request[0] is None:
            return
        name, seed, arguments = request[0]
        torch.manual_seed(seed)
        try:
            for _ in FUNCTIONS[name](model, tokenizer, **arguments, should_stop=lambda: _agree(world, False)):
                pass
        except ValueError as error:
            logger.debug("rank 0 refuses this: %s", error)


def _dismiss(world: World, watch: Watch) -> None:
    """At the end of rank 0: the others may leave."""
    watch.close()
    with suppress(RuntimeError):  # one that has died meanwhile need not be told
        dist.broadcast_object_list([None], src=0, group=world.control)
    world.leave()


@contextmanager
def _together() -> Iterator[None]:
    """Bad input is refused by all ranks alike; anything else leaves them at different points, which ends the job."""
    try:
        yield
    except (ValueError, GeneratorExit):
        raise
    except BaseException as error:
        logger.exception("rank 0 cannot go on")
        end_job(error)


def _agree(world: World, stops: bool) -> bool:
    """What rank 0 says about stopping."""
    flag = torch.tensor([stops])
    dist.broadcast(flag, src=0, group=world.control)
    return bool(flag)
