"""Define LayerNorm for the weights of the published files, which are float32 in a half model too."""

import torch
from torch import Tensor, nn


def float32_or_wider() -> torch.dtype:
    """Return the dtype of parameters that are not made in half: float32, or torch's default dtype if it is float64.

    Made so, they stay so however a model comes into being: from a configuration, from files, on the disk of a device
    map. Loading alone would change neither a new P-Tuning prefix nor the dtype in an index of offloaded weights.
    """
    return torch.promote_types(torch.get_default_dtype(), torch.float32)


class GLMLayerNorm(nn.LayerNorm):
    """LayerNorm that is made in float32, computes in the dtype of its weights and returns the dtype of its input."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__(size, eps=eps, dtype=float32_or_wider())

    def forward(self, hidden_states: Tensor) -> Tensor:
        if hidden_states.dtype == self.weight.dtype:
            return super().forward(hidden_states)
        return super().forward(hidden_states.to(self.weight.dtype)).to(hidden_states.dtype)
