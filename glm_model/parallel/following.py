"""Make the other ranks repeat every call of rank 0, which serves the user.

All ranks compute the same scores and sample with the same seed, so all choose the same tokens. Only rank 0 decides
whether to stop; it sends its decision to the others after every token.
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
    """Return True at once on the rank that serves the user; on the others follow it, and return False when it ends.

    For a model that is whole on one rank the result is True.

    Args:
        model, tokenizer: the model and the tokenizer that :func:`glm_model.loading.load` returned.
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
    """The leading role of rank 0: it sends its calls to the other ranks, one call at a time."""

    def __init__(self, world: World) -> None:
        self.world = world

    def stream(self, name: str, arguments: dict[str, Any]) -> Iterator[object]:
        """Run the function of this name on all ranks, and yield what it yields on this one.

        Args:
            name: the name of the function in :data:`glm_model.model.every_rank.FUNCTIONS`.
            arguments: its arguments by name; all except the model, the tokenizer and ``should_stop`` are sent.
        """
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
                for _ in steps:  # the other ranks run until the next decision says stop
                    pass


def _follow(world: World, model: Any, tokenizer: Any) -> None:
    """Run the calls of rank 0 until it ends."""
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
    """Tell the other ranks that rank 0 ends, so that they can leave too."""
    watch.close()
    with suppress(RuntimeError):  # a rank that has died cannot receive it
        dist.broadcast_object_list([None], src=0, group=world.control)
    world.leave()


@contextmanager
def _together() -> Iterator[None]:
    """Let errors of bad input pass, and end the job at any other error inside the context.

    All ranks refuse bad input at the same point. Any other error leaves them at different points, where they would wait
    for each other forever.
    """
    try:
        yield
    except (ValueError, GeneratorExit):
        raise
    except BaseException as error:
        logger.exception("rank 0 cannot go on")
        end_job(error)


def _agree(world: World, stops: bool) -> bool:
    """Return whether rank 0 wants to stop; ``stops`` counts only on rank 0."""
    flag = torch.tensor([stops])
    dist.broadcast(flag, src=0, group=world.control)
    return bool(flag)
