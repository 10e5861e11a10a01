"""Which layers the published quantization packs. Names only; imports nothing of ours."""

import re

# In every block; LayerNorm and biases stay as they are.
_LAYERS = re.compile(r"(^|\.)layers\.\d+\.(.+\.)?(query_key_value|dense|dense_h_to_4h|dense_4h_to_h)$")
_EMBEDDINGS = re.compile(r"(^|\.)(word_embeddings|embed_tokens|lm_head)$")


def is_packed(module: str, embeddings: bool) -> bool:
    """Whether the module of this name, published or ours, is packed; ``embeddings`` includes embedding and head."""
    return bool(_LAYERS.search(module) or (embeddings and _EMBEDDINGS.search(module)))
