"""LayerNorm with the weights of the published files."""

from torch import Tensor, nn


class GLMLayerNorm(nn.LayerNorm):
    """LayerNorm that takes half activations with the float32 weights of the published files."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        if hidden_states.dtype == self.weight.dtype:
            return super().forward(hidden_states)
        return super().forward(hidden_states.to(self.weight.dtype)).to(hidden_states.dtype)
