"""Under torchrun every process runs the same program; those that serve nobody keep away from keyboard and screen.

Imports nothing heavy: it runs before anything else does.
"""

import os


def leave_the_terminal_to_rank_0() -> None:
    """In a process of another rank, read nothing and print nothing but errors."""
    if int(os.environ.get("RANK", "0")) == 0:
        return
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
