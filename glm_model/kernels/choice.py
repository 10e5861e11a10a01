"""Which kernels the user lets run: environment variables GLM_KERNEL, GLM_INSTRUCTIONS. Imports nothing of ours."""

import functools
import os

NAMES = ("auto", "native", "onnxruntime", "triton", "cpm_kernels", "reference")


@functools.cache
def wanted() -> str:
    """Return the value of GLM_KERNEL, one of :data:`NAMES`; read once, because every product asks.

    Raises:
        ValueError: another value.
    """
    name = os.environ.get("GLM_KERNEL", "auto")
    if name not in NAMES:
        raise ValueError(f"GLM_KERNEL is {name!r}; it must be one of {', '.join(NAMES)}")
    return name


def allowed(name: str) -> bool:
    """Return whether the user lets the kernels of this name run."""
    return wanted() in ("auto", name)


def wanted_instructions(available: list[str]) -> list[str]:
    """Return the instruction sets to build the native kernel for: that of GLM_INSTRUCTIONS, or all available ones.

    Raises:
        ValueError: one that this CPU does not have.
    """
    name = os.environ.get("GLM_INSTRUCTIONS", "auto")
    if name == "auto":
        return available
    if name not in available:
        raise ValueError(f"GLM_INSTRUCTIONS is {name!r}; on this CPU it can be auto or one of {', '.join(available)}")
    return [name]
