"""Measure the memory that is free."""

from __future__ import annotations

from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: str) -> int:
    """Return the bytes of memory that this process may still take.

    Args:
        device: "cpu" for the memory of the machine, or of its container if that is less; or a GPU such as "cuda:0".
    """
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0]
    free = int(psutil.virtual_memory().available)
    limit, used = _read(CGROUP / "memory.max"), _read(CGROUP / "memory.current")
    return free if limit is None or used is None else max(0, min(free, limit - used))


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no control group of version 2, or one without a limit, which reads "max"
        return None
