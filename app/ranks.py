"""Under torchrun every process runs the same program; those that serve nobody keep away from keyboard and screen.

Imports nothing heavy: it runs before anything else does.
"""

import os


def leave_the_terminal_to_rank_0() -> None:
    """In a process of another rank, read nothing and print nothing but errors.

    Kubernetes and job schedulers set a RANK too, for programs that run alone; torchrun also says of how many.
    """
    if _number("WORLD_SIZE") <= 1 or _number("RANK") == 0:
        return
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)


def _number(name: str) -> int:
    """A number of the environment, 0 if it is not set or is none."""
    try:
        return int(os.environ.get(name, "0"))
    except ValueError:
        return 0
