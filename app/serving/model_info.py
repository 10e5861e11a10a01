"""Describe a loaded model to the users of a front-end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ModelInfo:
    """The properties of the model that a front-end shows.

    Attributes:
        name: the name of the model's folder.
        is_demo: the model is the demo model of this project.
        device: the device of its weights, such as "cpu" or "cuda:0".
        parameters: the number of parameters.
        quantization: "int4" or "int8", None if the weights are not quantized.
        context_length: the number of tokens that the model was trained for.
        kernel: one line on the kernel that multiplies with packed weights, None if the weights are not quantized.
    """

    name: str
    is_demo: bool
    device: str
    parameters: int
    quantization: str | None
    context_length: int
    kernel: str | None = None


def describe(model: Any) -> ModelInfo:
    """Return the properties of a loaded model, from its configuration and parameters."""
    config = model.config
    bits = getattr(config, "quantization_bit", 0)
    return ModelInfo(
        name=Path(getattr(config, "name_or_path", "") or type(model).__name__).resolve().name,
        is_demo=bool(getattr(config, "is_demo", False)),
        device=str(model.device),
        parameters=model.num_parameters(),
        quantization=f"int{bits}" if bits else None,
        context_length=int(getattr(config, "max_sequence_length", 2048)),
        kernel=_kernel(model) if bits else None,
    )


def _kernel(model: Any) -> str | None:
    from glm_model.loading import kernel_in_use

    return kernel_in_use(model)
