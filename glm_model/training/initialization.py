"""Initialises weights for DeepNorm and shrinks the embedding's gradient, for the stable training of GLM-130B."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..model.configuration import GLMConfig
from ..model.decoder import GLMForCausalLM
from ..model.layers import GLMDecoderLayer

GRADIENT_SHRINK = 0.1


@torch.no_grad()
def deepnorm_initialize(model: GLMForCausalLM) -> None:
    """Initialise the weights of a model in place, as in section 2.2 of the GLM-130B paper (arXiv 2210.02414).

    Weights are Xavier-normal, with gain ``(2N)^-1/2`` for MLP, value and output projections, where N is the number of
    layers, and gain 1 for query and key. This belongs to ``alpha = (2N)^1/2``, see ``config.residual_alpha``. Biases
    become 0; the embedding is normal with standard deviation ``config.initializer_range``. LayerNorms are not changed:
    a new model's are the identity.
    """
    config = model.config
    gain = (2 * config.num_layers) ** -0.5
    nn.init.normal_(model.model.embed_tokens.weight, std=config.initializer_range)
    for layer in cast("list[GLMDecoderLayer]", model.model.layers):
        for linear in (layer.self_attn.dense, layer.mlp.dense_h_to_4h, layer.mlp.dense_4h_to_h):
            nn.init.xavier_normal_(linear.weight, gain=gain)
            nn.init.zeros_(linear.bias)
        _initialize_query_key_value(layer.self_attn.query_key_value, config, gain)


def _initialize_query_key_value(linear: nn.Linear, config: GLMConfig, value_gain: float) -> None:
    """Initialise the fused weight [3 * hidden, hidden], whose rows are query, key and value of each head in turn.

    Xavier's formula takes query, key and value as three separate matrices [hidden, hidden].
    """
    hidden = config.hidden_size
    heads = linear.weight.view(config.num_attention_heads, 3, hidden // config.num_attention_heads, hidden)
    for index, gain in enumerate((1.0, 1.0, value_gain)):
        matrix = torch.empty(hidden, hidden)
        nn.init.xavier_normal_(matrix, gain=gain)
        heads[:, index] = matrix.view_as(heads[:, index])
    nn.init.zeros_(linear.bias)


def shrink_embedding_gradient(embedding: nn.Embedding, alpha: float = GRADIENT_SHRINK) -> RemovableHandle:
    """Scale the gradient of an embedding by `alpha`: its output x becomes ``x * alpha + x.detach() * (1 - alpha)``.

    The source is the GLM-130B paper, section 3.1. Return a handle whose ``remove()`` undoes this.
    """

    def shrink(_module: nn.Module, _inputs: Any, embedded: Tensor) -> Tensor:
        return embedded * alpha + embedded.detach() * (1 - alpha)

    return embedding.register_forward_hook(shrink)
