"""Define LayerNorm for the weights of the published files, which are float32 in a half model too."""

from torch import Tensor, nn


class GLMLayerNorm(nn.LayerNorm):
    """LayerNorm that computes in the dtype of its weights and returns the dtype of its input."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        if hidden_states.dtype == self.weight.dtype:
            return super().forward(hidden_states)
        return super().forward(hidden_states.to(self.weight.dtype)).to(hidden_states.dtype)
