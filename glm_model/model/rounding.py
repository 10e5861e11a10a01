"""Round half precision on a CPU where the original rounds.

In half precision on a CPU the published results can be reproduced bit by bit, and two tokens of nearly equal
probability keep the original's order. The kernels of a GPU round differently, and so does oneDNN on a CPU with
instructions for half precision (AVX512-FP16), unless ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 is in the environment before
torch is imported. Float32 and bfloat16 use the fast kernels everywhere.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration import GLM130BConfig, GLMConfig


def is_half_on_cpu(states: Tensor) -> bool:
    """Return whether a tensor is half precision on a CPU, for which the original's single operations are used."""
    return states.dtype == torch.float16 and states.device.type == "cpu"


def attention_in_use(config: GLMConfig, states: Tensor) -> str:
    """Return the name of the attention implementation for these states.

    It is that of the configuration, but "eager", whose steps are the original's, in place of "sdpa" for half precision
    on a CPU.
    """
    chosen = config._attn_implementation
    return "eager" if chosen == "sdpa" and is_half_on_cpu(states) else str(chosen)


def gelu(states: Tensor) -> Tensor:
    """Return GELU (tanh approximation); half precision on a CPU is rounded after every operation, as originally."""
    if not is_half_on_cpu(states):
        return F.gelu(states, approximate="tanh")
    return 0.5 * states * (1 + torch.tanh(0.7978845608028654 * states * (1 + 0.044715 * states * states)))


class RowParallelLinear(nn.Linear):
    """Linear layer of GLM-130B whose columns the original's ranks share: it adds up their products, then the bias.

    In half precision on a CPU product and sum are rounded separately, as in the original, also with one rank.
    Otherwise it is a plain linear layer.
    """

    def forward(self, states: Tensor) -> Tensor:
        if not is_half_on_cpu(states):
            return super().forward(states)
        product = F.linear(states, self.weight)
        return product if self.bias is None else product + self.bias


def row_linear(config: GLMConfig) -> type[nn.Linear]:
    """Return the class of the float output projections, of the attention and of the MLP."""
    return RowParallelLinear if isinstance(config, GLM130BConfig) else nn.Linear
