"""Small models of both architectures, of sizes of which no two are alike."""

from typing import Any

from glm_model import ChatGLMConfig, GLM130BConfig
from glm_model.model.configuration import GLMConfig

ARCHITECTURES = ("chatglm", "glm130b")
_IDS = {"bos_token_id": 994, "eos_token_id": 995, "gmask_token_id": 991, "mask_token_id": 990, "pad_token_id": 3}


def small(architecture: str, **overrides: Any) -> GLMConfig:
    """5 layers, 8 heads of 24, everything divisible by 4."""
    sizes = {"hidden_size": 192, "num_layers": 5, "num_attention_heads": 8, "inner_hidden_size": 1344}
    fields = {**_IDS, **sizes, "vocab_size": 1000, "max_sequence_length": 512, "use_cache": True, **overrides}
    if architecture == "chatglm":
        return ChatGLMConfig(**fields)
    return GLM130BConfig(**{"smask_token_id": 992, **fields})
