"""Measure the memory that is free."""

from __future__ import annotations

from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")


def free_bytes() -> int:
    """Return the bytes of memory that this process may still take: of the machine, or of its container if less."""
    free = int(psutil.virtual_memory().available)
    limit, used = _read(CGROUP / "memory.max"), _read(CGROUP / "memory.current")
    return free if limit is None or used is None else max(0, min(free, limit - used))


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no control group of version 2, or one without a limit, which reads "max"
        return None
