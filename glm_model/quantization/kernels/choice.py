"""Which kernels the user lets run: the environment variable GLM_KERNEL. Imports nothing of ours."""

import functools
import os

NAMES = ("auto", "native", "onnxruntime", "triton", "cpm_kernels", "reference")


@functools.cache
def wanted() -> str:
    """The value of GLM_KERNEL, one of :data:`NAMES`; read once, because every product asks.

    Raises:
        ValueError: another value.
    """
    name = os.environ.get("GLM_KERNEL", "auto")
    if name not in NAMES:
        raise ValueError(f"GLM_KERNEL is {name!r}; it must be one of {', '.join(NAMES)}")
    return name


def allowed(name: str) -> bool:
    """Whether the kernel of this name may be used."""
    return wanted() in ("auto", name)
