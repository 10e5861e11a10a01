"""Measure the memory that is free for the cache of an engine."""

from __future__ import annotations

import torch

from glm_model import loading


def free_bytes(device: str) -> int:
    """Return the bytes of memory that this process may still take.

    Args:
        device: "cpu" for the memory of the machine, or of its container if that is less; or a GPU such as "cuda:0".
    """
    return torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else loading.free_bytes()
