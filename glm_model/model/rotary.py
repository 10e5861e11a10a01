"""Compute rotary position embeddings (arXiv 2104.09864) for one row of position ids or two."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .configuration import GLMConfig

ROTARY_BASE = 10000.0


class GLMRotaryEmbedding(nn.Module):
    """Rotary angles of one or two rows of positions (arXiv 2104.09864, base 10000, non-interleaved).

    The original rounds the inverse frequencies to half when it creates them, in every precision.
    """

    inv_freq: Tensor

    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        self.rows = config.num_position_rows
        self.dim = config.hidden_size // config.num_attention_heads // self.rows
        self.angle_in_model_dtype = config.rotary_dtype == "model"
        self.register_buffer("inv_freq", self.inverse_frequencies(), persistent=False)

    def inverse_frequencies(self) -> Tensor:
        """Return the inverse frequencies, float32 [dim / 2], each rounded to a value of half precision."""
        exponent = torch.arange(0, self.dim, 2, dtype=torch.float32) / self.dim
        return (1.0 / ROTARY_BASE**exponent).half().float()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "GLMRotaryEmbedding":
        # `model.bfloat16()` and the like may move the frequencies to another device, but must not round them.
        super()._apply(fn, recurse)
        if self.inv_freq.dtype != torch.float32 and self.inv_freq.device.type != "meta":
            self.inv_freq = self.inverse_frequencies().to(self.inv_freq.device)
        return self

    @torch.no_grad()
    def forward(self, position_ids: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the cosines and sines of ``position_ids`` ([batch, length] or [batch, 2, length]).

        Returns:
            Two tensors [batch, length, 1, 1, rows, dim] in ``dtype``; they broadcast over heads and over query and key.
        """
        positions = position_ids.view(len(position_ids), self.rows, -1).transpose(1, 2).unsqueeze(-1)
        rounds_angle = dtype == torch.float16 and self.angle_in_model_dtype
        angle_dtype = dtype if rounds_angle else torch.float32
        angles = positions.to(angle_dtype) * self.inv_freq.to(angle_dtype)
        angles = torch.cat([angles, angles], dim=-1)[:, :, None, None]
        return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate_half(states: Tensor) -> Tensor:
    """Return (-x2, x1) for the two halves (x1, x2) of the last dimension."""
    first, second = states.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return ``states * cos + rotate_half(states) * sin``, computed in place because long prompts need much memory."""
    return rotate_half(states).mul_(sin).add_(states * cos)
