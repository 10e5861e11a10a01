"""Decide by their names which layers the published quantization packs; imports nothing of the package."""

import re

QUANTIZATION_METHOD = "glm"
"""``quant_method`` of the published quantization in transformers' registries. It is never written to a file."""

TIED_SCALE = {"lm_head.weight_scale": "model.embed_tokens.weight_scale"}
"""The scales that a packed head shares with a packed embedding, besides the integers."""

# In every block; LayerNorm and biases stay as they are.
_LAYERS = re.compile(r"(^|\.)layers\.\d+\.(.+\.)?(query_key_value|dense|dense_h_to_4h|dense_4h_to_h)$")
_EMBEDDINGS = re.compile(r"(^|\.)(word_embeddings|embed_tokens|lm_head)$")


def is_packed(module: str, embeddings: bool) -> bool:
    """Return whether a module is packed.

    Args:
        module: its name, the published one or that of this package.
        embeddings: whether the embedding and the head are packed too.
    """
    return bool(_LAYERS.search(module) or (embeddings and _EMBEDDINGS.search(module)))
