"""Which layers the published quantization packs. Names only; imports nothing of ours."""

import re

QUANTIZATION_METHOD = "glm"
"""``quant_method`` of the published quantization in transformers' registries. It is never written to a file."""

TIED_SCALE = {"lm_head.weight_scale": "model.embed_tokens.weight_scale"}
"""What a packed head and a packed embedding share besides their integers."""

# In every block; LayerNorm and biases stay as they are.
_LAYERS = re.compile(r"(^|\.)layers\.\d+\.(.+\.)?(query_key_value|dense|dense_h_to_4h|dense_4h_to_h)$")
_EMBEDDINGS = re.compile(r"(^|\.)(word_embeddings|embed_tokens|lm_head)$")


def is_packed(module: str, embeddings: bool) -> bool:
    """Whether the module of this name, published or ours, is packed; ``embeddings`` includes embedding and head."""
    return bool(_LAYERS.search(module) or (embeddings and _EMBEDDINGS.search(module)))
