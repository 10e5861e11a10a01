"""Measure the memory that is free."""

from pathlib import Path

import psutil
import torch

CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: str = "cpu") -> int:
    """Return the bytes of memory that this process may still take.

    Args:
        device: "cpu" for the memory of the machine, or of its container if that is less; what the kernel would drop for
            this process, such as files in its cache, is free in both. Or a GPU, such as "cuda:0".
    """
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    free = int(psutil.virtual_memory().available)
    limit, used = _read(CGROUP / "memory.max"), _read(CGROUP / "memory.current")
    return free if limit is None or used is None else max(0, min(free, limit - used + _cached_files()))


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no control group of version 2, or one without a limit, which reads "max"
        return None


def _cached_files() -> int:
    """Return the bytes of files in the kernel's cache that are counted as used by the container."""
    try:
        lines = (CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
        counts = {name: int(value) for name, value in (line.split() for line in lines)}
    except (OSError, ValueError):
        return 0
    return counts.get("active_file", 0) + counts.get("inactive_file", 0)
