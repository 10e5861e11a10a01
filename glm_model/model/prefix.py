"""Compute the trained prefix of keys and values of P-Tuning v2 (arXiv 2110.07602)."""

import torch
from torch import Tensor, nn

from .configuration import ChatGLMConfig
from .norm import float32_or_wider


class PrefixEncoder(nn.Module):
    """Encoder of a P-Tuning v2 prefix: trained keys and values that every token attends to in every layer.

    Its parameters are made in float32, also in a half model: in half the first steps of training make them NaN. Values
    in half that are loaded are widened. ``half()`` rounds them, as it did in the original.
    """

    def __init__(self, config: ChatGLMConfig, length: int) -> None:
        super().__init__()
        self.heads = (config.num_attention_heads, config.hidden_size // config.num_attention_heads)
        self.projects = config.prefix_projection
        width = 2 * config.num_layers * config.hidden_size
        dtype = float32_or_wider()
        self.embedding = nn.Embedding(length, config.hidden_size if self.projects else width, dtype=dtype)
        if self.projects:
            self.trans = nn.Sequential(
                nn.Linear(config.hidden_size, config.hidden_size, dtype=dtype),
                nn.Tanh(),
                nn.Linear(config.hidden_size, width, dtype=dtype),
            )
        self.dropout = nn.Dropout(0.1)
        self._kept: _Encoded | None = None

    def forward(self, dtype: torch.dtype, batch: int) -> Tensor:
        """Return the prefix, [2 * layers, batch, heads, prefix length, head_dim].

        Entries 2i and 2i + 1 are the keys and the values of layer i. In training, dropout gives each sequence another
        prefix. Otherwise all sequences share one, [2 * layers, 1, ...], which is encoded once and kept until the
        weights change.

        Args:
            dtype: the dtype of the result.
            batch: the number of sequences.
        """
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self.dropout(self._encode(dtype).expand(-1, batch if self.training else 1, -1, -1, -1))
        weights = list(self.parameters())
        if self._kept is None or not self._kept.is_of(dtype, weights):
            self._kept = _Encoded(self._encode(dtype), dtype, weights)
        return self._kept.prefix

    def _encode(self, dtype: torch.dtype) -> Tensor:
        encoded = self.embedding.weight
        if self.projects:
            encoded = self.trans(encoded)
        return encoded.to(dtype).unflatten(-1, (-1, *self.heads)).permute(1, 2, 0, 3).unsqueeze(1)


class _Encoded:
    """An encoded prefix, and the weights that it was made from."""

    def __init__(self, prefix: Tensor, dtype: torch.dtype, weights: list[nn.Parameter]) -> None:
        self.prefix = prefix
        self._dtype = dtype
        # These references keep the memory in use, so that no other weights can be allocated at the same address.
        self._weights = [weight.detach() for weight in weights]
        self._versions = [_version(weight) for weight in weights]

    def is_of(self, dtype: torch.dtype, weights: list[nn.Parameter]) -> bool:
        """Return whether the prefix was encoded in this dtype from these weights, unchanged since then."""
        return (
            dtype == self._dtype
            and all(a.data_ptr() == b.data_ptr() for a, b in zip(weights, self._weights, strict=True))
            and all(_version(a) == version for a, version in zip(weights, self._versions, strict=True))
        )


def _version(weight: Tensor) -> int:
    """Return how often a tensor was changed in place; 0 for a tensor of inference mode, which has no such count."""
    return 0 if weight.is_inference() else weight._version


def train_prefix_alone(model: nn.Module) -> None:
    """Freeze all parameters except the prefix, as P-Tuning does; ``from_pretrained`` leaves all of them trainable."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("prefix_encoder." in name)
