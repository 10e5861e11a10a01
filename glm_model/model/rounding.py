"""Half precision on a CPU, rounded where the original rounds.

There the published results can be reproduced bit by bit, and two tokens that are nearly as likely come out in the
original's order. A GPU's kernels round in ways of their own, and float32 and bfloat16 take the fast kernels everywhere.
So do oneDNN's on a CPU that calculates in half itself (AVX512-FP16), unless ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 is in
the environment before torch is imported.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration import GLM130BConfig, GLMConfig


def is_half_on_cpu(states: Tensor) -> bool:
    """Whether the original's single steps are taken for these values."""
    return states.dtype == torch.float16 and states.device.type == "cpu"


def attention_in_use(config: GLMConfig, states: Tensor) -> str:
    """The attention implementation: sdpa gives way to eager, whose steps are the original's."""
    chosen = config._attn_implementation
    return "eager" if chosen == "sdpa" and is_half_on_cpu(states) else str(chosen)


def gelu(states: Tensor) -> Tensor:
    """GELU, tanh approximation; in half on CPU with the original's rounding after every operation."""
    if not is_half_on_cpu(states):
        return F.gelu(states, approximate="tanh")
    return 0.5 * states * (1 + torch.tanh(0.7978845608028654 * states * (1 + 0.044715 * states * states)))


class RowParallelLinear(nn.Linear):
    """GLM-130B's layers that its ranks share by columns: they add up their products first, then the bias.

    In half on CPU this rounds twice as the original does, with one rank too; elsewhere it is a plain linear layer.
    """

    def forward(self, states: Tensor) -> Tensor:
        if not is_half_on_cpu(states):
            return super().forward(states)
        product = F.linear(states, self.weight)
        return product if self.bias is None else product + self.bias


def row_linear(config: GLMConfig) -> type[nn.Linear]:
    """The class of the layers behind attention and inside the MLP's second half."""
    return RowParallelLinear if isinstance(config, GLM130BConfig) else nn.Linear
