"""Reads and writes lists of GPUs, such as ``4x24GB``, and computes the memory that a model can use on them."""

import math
import re
from dataclasses import dataclass

GIB = 2**30
MIB = 2**20

USABLE_SHARE = 0.972
"""The share of a card's nominal memory that CUDA offers; the driver keeps the rest. It is the smallest share among the
"total capacity" of PyTorch's out-of-memory messages in public threads: 7.78 GiB of 8, 10.76 of 11, 23.69 of 24, 31.75
of 32, 39.59 of 40, 79.25 of 80. Cards with ECC on GDDR memory offer less: 14.75 of 16 on a T4."""

_GROUP = re.compile(r"(?:(\d+)\s*[x×*]\s*)?(\d+(?:\.\d+)?)\s*(G|GB|GIB|M|MB|MIB)", re.IGNORECASE)
_MAX_CARDS = 4096


@dataclass(frozen=True)
class GPU:
    """One GPU.

    Attributes:
        memory: nominal bytes. The GB of GPU memory are GiB: a card of 24 GB has 24 x 2^30 bytes.
    """

    memory: int

    @property
    def usable(self) -> int:
        """Bytes that CUDA offers, see :data:`USABLE_SHARE`."""
        return int(self.memory * USABLE_SHARE)

    @classmethod
    def with_usable(cls, needed: int) -> "GPU":
        """Return the smallest GPU, in whole GB, on which CUDA offers ``needed`` bytes."""
        return cls(math.ceil(needed / USABLE_SHARE / GIB) * GIB)


def parse_gpus(text: str) -> tuple[GPU, ...]:
    """Return the GPUs that a text names, such as ``24GB``, ``4x24GB`` or ``2x80GB,4x24GB``.

    GiB means the same as GB, MiB the same as MB.

    Raises:
        ValueError: the text has another form, or names no card, too many cards, or a card without memory.
    """
    return tuple(gpu for group in text.split(",") for gpu in _group(group.strip(), text))


def write_gpus(gpus: tuple[GPU, ...]) -> str:
    """Return the text that :func:`parse_gpus` reads as these GPUs, cards of one size grouped together."""
    kinds = {gpu: gpus.count(gpu) for gpu in gpus}
    return ",".join(f"{count}x{gpu.memory / GIB:g}GB" for gpu, count in kinds.items())


def _group(text: str, whole: str) -> list[GPU]:
    found = _GROUP.fullmatch(text)
    if found is None:
        raise ValueError(f"{whole!r} names no GPUs; write 24GB, 4x24GB or 2x80GB,4x24GB (cards x memory of each)")
    count, size, unit = int(found[1] or 1), float(found[2]), found[3].upper()
    memory = int(size * (GIB if unit.startswith("G") else MIB))
    if not 0 < count <= _MAX_CARDS or memory <= 0:
        raise ValueError(f"{text!r} in {whole!r}: there must be 1 to {_MAX_CARDS} cards, and memory on each")
    return [GPU(memory)] * count
