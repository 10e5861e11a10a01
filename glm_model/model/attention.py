"""Compute self-attention with rotary positions, given one row of position ids or two."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..quantization.linear import make_linear
from .configuration import GLMConfig
from .masking import additive_mask
from .rotary import rotate
from .rounding import attention_in_use, row_linear
from .row_cache import RowCaches


def eager_attention_forward(
    module: "GLMAttention",
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[Tensor, Tensor]:
    """Compute attention step by step and round where the original rounds.

    The query is divided by the layer's number (counted from 1) before the product, and the float32 scores are
    multiplied by it again, so that half precision does not overflow.

    Args:
        module: the attention layer, which knows its number.
        query, key, value: [batch, heads, length, head_dim].
        attention_mask: bool (True = visible) or additive float, broadcast to [batch, heads, length, keys]; or None.
        scaling: factor of the scores, ``head_dim ** -0.5``.

    Returns:
        The context [batch, length, heads, head_dim], and the probabilities [batch, heads, length, keys].
    """
    layer_number = module.layer_idx + 1
    scores = torch.matmul(query / (layer_number / scaling), key.transpose(2, 3)).float() * layer_number
    if attention_mask is not None:
        if attention_mask.dtype == torch.bool:
            attention_mask = additive_mask(attention_mask, torch.float32)
        scores = scores + attention_mask
    probabilities = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    probabilities = F.dropout(probabilities, p=dropout, training=module.training)
    return torch.matmul(probabilities, value).transpose(1, 2).contiguous(), probabilities


def attention_kernels(states: Tensor) -> AbstractContextManager[None]:
    """Return a context manager that excludes cuDNN's attention kernels on a GPU while the layers run.

    cuDNN plans its kernel again for each length of the cache. That takes 1.5 ms a layer on an H200, three times as long
    as the rest of a step. Nothing is excluded in training: gradient checkpointing computes a layer again in the
    backward pass, outside of this context, and would then use another kernel than the forward pass.

    Args:
        states: the hidden states; only their device counts.
    """
    if states.device.type != "cuda" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return nullcontext()
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


RowAttention = Callable[["GLMAttention", Tensor, tuple[Tensor, Tensor], RowCaches], Tensor | None]
"""A function that may compute the attention of one new token of each of several rows: (attention layer, queries, keys
and values [rows, 1, 3 * hidden], cosines and sines, caches) -> context [rows, 1, hidden], or None if it cannot."""

_row_attention: RowAttention | None = None


def register_row_attention(function: RowAttention) -> None:
    """Let all attention layers try ``function`` before they compute the rows one after the other."""
    global _row_attention
    _row_attention = function


class GLMAttention(nn.Module):
    """Multi-head attention; the rows of the fused weight hold q, k, v of head 0, then q, k, v of head 1, ..."""

    def __init__(self, config: GLMConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.cache_idx = layer_idx  # a later stage of a pipeline counts its own layers from 0
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.rows = config.num_position_rows
        self.scaling = self.head_dim**-0.5
        self.is_causal = False  # the mask holds the causal part too
        bits = config.quantization_bit
        self.query_key_value = make_linear(bits, config.hidden_size, 3 * config.hidden_size)
        self.dense = make_linear(bits, config.hidden_size, config.hidden_size, float_class=row_linear(config))

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        cache: Cache | None = None,
        prefix: Tensor | None = None,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor | None]:
        fused = self.query_key_value(hidden_states)
        if isinstance(cache, RowCaches):
            return self.dense(self._attend_rows(fused, position_embeddings, cache, prefix, **kwargs)), None
        query, key, value = self._split(fused, *position_embeddings)
        context, probabilities = self._attend(query, key, value, cache, attention_mask, prefix, **kwargs)
        return self.dense(context.flatten(2)), probabilities

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cache: Cache | None,
        attention_mask: Tensor | None,
        prefix: Tensor | None,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor | None]:
        """Add keys and values to the cache, and return the context [batch, length, heads, head_dim] and the weights."""
        if cache is not None:
            key, value = cache.update(key, value, self.cache_idx)
        if prefix is not None:
            prefix_key, prefix_value = prefix[2 * self.layer_idx], prefix[2 * self.layer_idx + 1]
            key = torch.cat([prefix_key.expand(len(key), -1, -1, -1), key], dim=2)
            value = torch.cat([prefix_value.expand(len(value), -1, -1, -1), value], dim=2)
        implementation = attention_in_use(self.config, query)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        found: tuple[Tensor, Tensor | None] = attend(
            self, query, key, value, attention_mask, scaling=self.scaling, dropout=0.0, **kwargs
        )
        return found

    def _attend_rows(
        self,
        fused: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        rows: RowCaches,
        prefix: Tensor | None,
        **kwargs: object,
    ) -> Tensor:
        """Return the context [rows, 1, hidden] of one new token of each row."""
        if prefix is None and _row_attention is not None and self.config._attn_implementation == "sdpa":
            context = _row_attention(self, fused, position_embeddings, rows)
            if context is not None:
                return context
        query, key, value = (states.split(1) for states in self._split(fused, *position_embeddings))
        contexts = [
            self._attend(query[row], key[row], value[row], cache, None, prefix, **kwargs)[0]
            for row, cache in enumerate(rows.caches)
        ]
        return torch.cat(contexts).flatten(2)

    def _split(self, fused: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the rotated query, the rotated key and the value, each [batch, heads, length, head_dim]."""
        fused = fused.unflatten(-1, (-1, 3 * self.head_dim))
        query_key = fused[..., : 2 * self.head_dim].unflatten(-1, (2, self.rows, -1))
        # On a CPU query and key are rotated one after the other, which saves memory; on a GPU both at once, which
        # halves the number of kernel launches.
        parts = query_key.split(1, dim=3) if query_key.device.type == "cpu" else (query_key,)
        query, key = (part.flatten(-2) for some in parts for part in rotate(some, cos, sin).unbind(3))
        value = fused[..., 2 * self.head_dim :]
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
