"""Detach the processes of other ranks from the terminal when a program runs under torchrun.

torchrun starts the same program in every process, but only rank 0 serves users. The module imports only the standard
library, since it runs before everything else.
"""

import os


def leave_the_terminal_to_rank_0() -> None:
    """Redirect standard input and output to the null device in every process but rank 0; standard error stays.

    A RANK alone is no sign of torchrun: Kubernetes and job schedulers set it for single processes too. torchrun also
    sets WORLD_SIZE, so both are checked.
    """
    if _number("WORLD_SIZE") <= 1 or _number("RANK") == 0:
        return
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)


def _number(name: str) -> int:
    """Return the environment variable `name` as a number, 0 if it is not set or not a number."""
    try:
        return int(os.environ.get(name, "0"))
    except ValueError:
        return 0
