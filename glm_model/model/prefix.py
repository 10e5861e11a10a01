"""P-Tuning v2: a trained prefix of keys and values."""

import torch
from torch import Tensor, nn

from .configuration import ChatGLMConfig


class PrefixEncoder(nn.Module):
    """P-Tuning v2 (arXiv 2110.07602): trained keys and values that every token of every layer may attend to."""

    def __init__(self, config: ChatGLMConfig, length: int) -> None:
        super().__init__()
        self.heads = (config.num_attention_heads, config.hidden_size // config.num_attention_heads)
        self.projects = config.prefix_projection
        width = 2 * config.num_layers * config.hidden_size
        self.embedding = nn.Embedding(length, config.hidden_size if self.projects else width)
        if self.projects:
            self.trans = nn.Sequential(
                nn.Linear(config.hidden_size, config.hidden_size),
                nn.Tanh(),
                nn.Linear(config.hidden_size, width),
            )
        self.dropout = nn.Dropout(0.1)

    def forward(self, dtype: torch.dtype, batch: int) -> Tensor:
        """[2 * layers, batch, heads, prefix length, head_dim]; rows 2i and 2i + 1 are keys and values of layer i.

        Dropout gives each sequence a prefix of its own in training; otherwise all share one, [2 * layers, 1, ...].
        """
        encoded = self.embedding.weight
        if self.projects:
            encoded = self.trans(encoded)
        encoded = encoded.to(dtype).unflatten(-1, (-1, *self.heads)).permute(1, 2, 0, 3).unsqueeze(1)
        return self.dropout(encoded.expand(-1, batch if self.training else 1, -1, -1, -1))


def train_prefix_alone(model: nn.Module) -> None:
    """Freeze everything but the prefix, as P-Tuning does; ``from_pretrained`` makes every parameter trainable."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("prefix_encoder." in name)
