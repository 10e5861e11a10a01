"""Define the MLP and the block (attention and MLP with their norms) of the decoder."""

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from ..quantization.linear import make_linear
from .attention import GLMAttention
from .configuration import GLMConfig
from .norm import GLMLayerNorm
from .rounding import gelu, row_linear


class GLMMLP(nn.Module):
    """MLP with GELU (tanh approximation) or, if ``config.gated_mlp``, with GeGLU: exact GELU on the second half."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        self.gated = config.gated_mlp
        bits, inner = config.quantization_bit, config.inner_hidden_size
        self.dense_h_to_4h = make_linear(bits, config.hidden_size, 2 * inner if self.gated else inner)
        self.dense_4h_to_h = make_linear(bits, inner, config.hidden_size, float_class=row_linear(config))

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.dense_4h_to_h(self._activate(self.dense_h_to_4h(hidden_states)))

    def _activate(self, inner: Tensor) -> Tensor:
        if self.gated:
            linear, gate = inner.chunk(2, dim=-1)
            return linear * F.gelu(gate)
        return gelu(inner)


class GLMDecoderLayer(GradientCheckpointingLayer):
    """DeepNorm block: the residual is the *normalised* input, scaled by alpha."""

    def __init__(self, config: GLMConfig, layer_idx: int) -> None:
        super().__init__()
        self.alpha = config.residual_alpha
        self.input_layernorm = GLMLayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.self_attn = GLMAttention(config, layer_idx)
        self.post_attention_layernorm = GLMLayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.mlp = GLMMLP(config)

    def forward(self, hidden_states: Tensor, **kwargs: object) -> Tensor:
        # No tensor is computed before it is needed or kept longer than that: those of a long prompt are large.
        hidden_states = self.input_layernorm(hidden_states)
        hidden_states = self.self_attn(hidden_states, **kwargs)[0] + hidden_states * self.alpha
        hidden_states = self.post_attention_layernorm(hidden_states)
        return self.mlp(hidden_states) + hidden_states * self.alpha
