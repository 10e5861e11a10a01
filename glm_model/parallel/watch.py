"""End this process with a message, instead of a hang, when another rank has died or no longer responds."""

import os
import sys
import threading
from datetime import timedelta
from typing import NoReturn

from torch import distributed as dist

_PAUSE = 2.0  # seconds between two barriers
PATIENCE = timedelta(seconds=60)  # the timeout of a barrier; a busy rank may reach it late
_GRACE = 5.0  # seconds after a failed barrier in which this rank may itself be told to leave


class Watch:
    """A thread that runs a barrier of all ranks every few seconds until it is closed.

    All ranks must make their watch at the same point. A dead process closes its connections, at which the next barrier
    fails at once; a frozen or unreachable one lets it time out after a minute. Both end this process with exit code 1,
    so that torchrun ends the rest.
    """

    def __init__(self) -> None:
        try:
            self._group = dist.new_group(backend="gloo", timeout=PATIENCE)
        except RuntimeError as error:  # a rank may have died already
            end_job(error)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="glm-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching, because the job ends and ranks may leave.

        This waits for a running barrier, which would abort the process if it were interrupted.
        """
        self._closing.set()
        self._thread.join(_GRACE)

    def _work(self) -> None:
        while not self._closing.wait(_PAUSE):
            try:
                dist.monitored_barrier(self._group, timeout=PATIENCE, wait_all_ranks=True)
            except RuntimeError as error:
                if not self._closing.wait(_GRACE):
                    end_job(error)


def end_job(error: BaseException) -> NoReturn:
    """Print that the job cannot continue, and end this process with exit code 1 without waiting for other ranks."""
    reason = str(error).strip().partition("\n")[0]
    print(
        f"glm_model: rank {dist.get_rank()} of {dist.get_world_size()} lost the others, so the whole job ends; start "
        f"it again. The log of the rank that failed first says why. ({reason})",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)
