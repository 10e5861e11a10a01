"""ChatGLM-6B's tensors by their published names, for whoever writes a file of that shape. Imports nothing."""

from collections.abc import Iterator
from typing import NamedTuple

HIDDEN, INNER, HEADS, LAYERS, VOCABULARY = 4096, 16384, 32, 28, 130528
BOS, EOS, PAD, MASK, GMASK = 130004, 130005, 3, 130000, 130001
MAX_LENGTH = 2048

CONFIG = {
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "inner_hidden_size": INNER,
    "num_attention_heads": HEADS,
    "num_layers": LAYERS,
    "layernorm_epsilon": 1e-5,
    "max_sequence_length": MAX_LENGTH,
    "position_encoding_2d": True,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
    "mask_token_id": MASK,
    "gmask_token_id": GMASK,
    "use_cache": True,
}


class Tensor(NamedTuple):
    """One tensor of the published checkpoint.

    Attributes:
        name: published.
        shape: of the float tensor.
        kind: "embedding", "linear", "bias" or "norm" (the weight of a LayerNorm).
    """

    name: str
    shape: tuple[int, ...]
    kind: str


def tensors() -> Iterator[Tensor]:
    """All but the head, which is the embedding."""
    yield Tensor("transformer.word_embeddings.weight", (VOCABULARY, HIDDEN), "embedding")
    for number in range(LAYERS):
        layer = f"transformer.layers.{number}"
        yield from _norm(f"{layer}.input_layernorm")
        yield from _linear(f"{layer}.attention.query_key_value", 3 * HIDDEN, HIDDEN)
        yield from _linear(f"{layer}.attention.dense", HIDDEN, HIDDEN)
        yield from _norm(f"{layer}.post_attention_layernorm")
        yield from _linear(f"{layer}.mlp.dense_h_to_4h", INNER, HIDDEN)
        yield from _linear(f"{layer}.mlp.dense_4h_to_h", HIDDEN, INNER)
    yield from _norm("transformer.final_layernorm")


def packed_bytes() -> int:
    """Bytes of INT4 weights that every token reads: all linear layers and the head."""
    weights = (tensor.shape for tensor in tensors() if tensor.kind in ("linear", "embedding"))
    return sum(rows * columns for rows, columns in weights) // 2


def _norm(name: str) -> Iterator[Tensor]:
    yield Tensor(f"{name}.weight", (HIDDEN,), "norm")
    yield Tensor(f"{name}.bias", (HIDDEN,), "bias")


def _linear(name: str, outputs: int, inputs: int) -> Iterator[Tensor]:
    yield Tensor(f"{name}.weight", (outputs, inputs), "linear")
    yield Tensor(f"{name}.bias", (outputs,), "bias")
