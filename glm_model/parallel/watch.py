"""Notices when another rank has died, or answers no more, and ends this process with a sentence instead of a hang."""

import os
import sys
import threading
from datetime import timedelta
from typing import NoReturn

from torch import distributed as dist

_PAUSE = 2.0  # seconds between two roll calls
PATIENCE = timedelta(seconds=60)  # for a rank that is busy and answers late
_GRACE = 5.0  # seconds in which a rank that leaves may have told this one to leave too


class Watch:
    """Calls the roll in a thread until it is closed. To be made by all ranks at the same point.

    A dead process closes its connections, which the next call notices at once; a frozen or unreachable one is given a
    minute. Either ends the process with exit code 1, so that torchrun ends the rest.
    """

    def __init__(self) -> None:
        try:
            self._group = dist.new_group(backend="gloo", timeout=PATIENCE)
        except RuntimeError as error:  # a rank that was through with it may have died already
            end_job(error)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="glm-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """The job is about to end: from now on ranks may leave. A running call may end; cut off, it aborts."""
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
    """Say that the job cannot go on, and leave without waiting for anybody."""
    reason = str(error).strip().partition("\n")[0]
    print(
        f"glm_model: rank {dist.get_rank()} of {dist.get_world_size()} lost the others, so the whole job ends; start "
        f"it again. The log of the rank that failed first says why. ({reason})",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)
