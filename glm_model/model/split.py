"""Decide how a model is split: how each layer is cut for tensor parallelism, and which layers a pipeline stage holds.

These are pure functions of a configuration, without torch. The cuts are those of SwissArmyTransformer's shards of
GLM-130B.
"""

from __future__ import annotations

from typing import Literal, Protocol

from ..errors import UnsupportedError

# Styles of this package, which `parallel.styles` registers with transformers. All other names are transformers'.
VOCABULARY = "glm_vocabulary"
PACKED_ROWWISE = "glm_packed_rowwise"
COLWISE_HALVES = "glm_colwise_halves"
PREFIX_HEADS = "glm_prefix_heads"


class Sizes(Protocol):
    """The fields of a configuration by which a model is cut; a :class:`~.configuration.GLMConfig` has them all."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_attention_heads: int
    inner_hidden_size: int
    gated_mlp: bool
    tie_word_embeddings: bool
    quantization_bit: Literal[0, 4, 8] | None

    @property
    def embedding_bit(self) -> int | None:
        """The ``quantization_bit`` of the embedding and the head."""


def tensor_parallel_plan(config: Sizes) -> dict[str, str]:
    """Return transformers' ``base_model_tp_plan``: a style for every module of the decoder that is cut.

    The rows of ``query_key_value`` are q, k, v of one head after the other, so a plain column cut gives each rank whole
    heads. The output of GeGLU's first layer has two halves, and each rank needs its part of both.
    """
    rowwise = PACKED_ROWWISE if config.quantization_bit else "rowwise"
    plan = {
        "embed_tokens": VOCABULARY,
        "layers.*.self_attn.query_key_value": "colwise",
        "layers.*.self_attn.dense": rowwise,
        "layers.*.mlp.dense_h_to_4h": COLWISE_HALVES if config.gated_mlp else "colwise",
        "layers.*.mlp.dense_4h_to_h": rowwise,
    }
    if getattr(config, "pre_seq_len", None):
        plan["prefix_encoder"] = PREFIX_HEADS
    return plan


def require_tensor_parallel(config: Sizes, ranks: int) -> None:
    """Raise UnsupportedError, naming the field, if ``ranks`` tensor parallel ranks cannot share every layer evenly."""
    in_a_byte = 2 if config.quantization_bit == 4 else 1
    for field, unit in (("num_attention_heads", 1), ("inner_hidden_size", in_a_byte), ("vocab_size", 1)):
        value = getattr(config, field)
        if value % (ranks * unit):
            raise UnsupportedError(
                f"tensor parallel {ranks}: {field} {value} does not divide by {ranks * unit}. Use another number of "
                "ranks, or pipeline parallel."
            )


def require_sizes(config: Sizes, tensor: int, pipeline: int) -> None:
    """Raise UnsupportedError if a model cannot be split over ``tensor`` ranks and ``pipeline`` stages."""
    require_tensor_parallel(config, tensor)
    stage_layers(config, pipeline)


def stage_layers(config: Sizes, stages: int, float_bits: int = 16) -> list[range]:
    """Return the layers of every pipeline stage, chosen so that the largest stage needs as little memory as possible.

    The first stage also holds the embedding and the head, which are tied in both models.

    Args:
        config: the configuration of the model.
        stages: the number of stages.
        float_bits: bits of an element of a weight that is not packed.

    Raises:
        UnsupportedError: there are more stages than layers.
    """
    if stages > config.num_layers:
        raise UnsupportedError(
            f"pipeline parallel {stages}: the model has {config.num_layers} layers, and every stage needs one."
        )
    layer = _layer_weights(config) * (config.quantization_bit or float_bits)
    embeddings = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    counts, loads = [1] * stages, [layer] * stages
    loads[0] += embeddings * (config.embedding_bit or float_bits)
    for _ in range(config.num_layers - stages):
        lightest = loads.index(min(loads))
        counts[lightest] += 1
        loads[lightest] += layer
    starts = [sum(counts[:stage]) for stage in range(stages)]
    return [range(start, start + count) for start, count in zip(starts, counts, strict=True)]


def _layer_weights(config: Sizes) -> int:
    """Return the number of elements of a layer's matrices."""
    mlp = config.inner_hidden_size * (3 if config.gated_mlp else 2)
    return (4 * config.hidden_size + mlp) * config.hidden_size
