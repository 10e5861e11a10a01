"""Lists the tensors of a GLM-130B checkpoint: their names, their shapes, and the shapes of a rank's parts."""

from collections.abc import Iterator, Mapping

import torch

from ..kernels.packing import packed_columns
from .tensor_parallel import cut_of, split

EMBEDDING = "transformer.word_embeddings.weight"


def tensor_shapes(sizes: Mapping[str, int], bits: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield published name and shape of every tensor, in the archives' order, without ``inv_freq``.

    Args:
        sizes: vocab_size, hidden_size, num_layers and inner_hidden_size.
        bits: 4 or 8 if the linear layers are packed, so that each has a ``weight_scale``; else 0.
    """
    hidden, inner = sizes["hidden_size"], sizes["inner_hidden_size"]
    norm: dict[str, tuple[int, ...]] = {"weight": (hidden,), "bias": (hidden,)}
    block = {
        "input_layernorm": norm,
        "attention.query_key_value": _linear(3 * hidden, hidden, bits),
        "attention.dense": _linear(hidden, hidden, bits),
        "post_attention_layernorm": norm,
        "mlp.dense_4h_to_h": _linear(hidden, inner, bits),
        "mlp.dense_h_to_4h": _linear(2 * inner, hidden, bits),  # GeGLU
    }
    yield EMBEDDING, (sizes["vocab_size"], hidden)
    for layer in range(sizes["num_layers"]):
        for module, shapes in block.items():
            for kind, shape in shapes.items():
                yield f"transformer.layers.{layer}.{module}.{kind}", shape
    for kind, shape in norm.items():
        yield f"transformer.final_layernorm.{kind}", shape


def _linear(rows: int, columns: int, bits: int) -> dict[str, tuple[int, ...]]:
    if not bits:
        return {"weight": (rows, columns), "bias": (rows,)}
    return {"weight": (rows, packed_columns(columns, bits)), "weight_scale": (rows,), "bias": (rows,)}


def part_shape(name: str, shape: tuple[int, ...], ranks: int) -> tuple[int, ...]:
    """Return the shape of one rank's part of a tensor of ``shape``. Raise ValueError if it does not divide."""
    parts = split(torch.empty(shape, device="meta"), cut_of(name), ranks)
    return tuple(parts[0].shape)
