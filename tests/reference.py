"""A slow, independent forward pass of both architectures, written from the published rules alone.

It imports nothing of this project. It computes in its weights' dtype, holds no cache and no clever path,
and takes weights under their published names. What it says is held against the original implementations
(tests/golden/test_reference.py), and then against the model on weights and inputs of no data set.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """What the weights do not tell: heads, DeepNorm factor, and which of the two architectures it is."""

    layers: int
    heads: int
    alpha: float
    glm130b: bool = False  # 1-D rotary and GeGLU, instead of 2-D rotary and GELU
    epsilon: float = 1e-5


@dataclass(frozen=True)
class SpecialIds:
    mask: int
    gmask: int
    sop: int
    smask: int | None = None


@dataclass
class Trace:
    """Everything of one pass that the data sets show; batch first."""

    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    values: dict[str, Tensor] = field(default_factory=dict)


def context_mask(ids: Sequence[int], sop: int) -> Tensor:
    """bool [S, S], True = masked: all see the context before the first <sop>, the rest is causal."""
    masked = torch.ones(len(ids), len(ids)).triu(1).bool()
    masked[:, : ids.index(sop)] = False
    return masked


def chatglm_positions(ids: Sequence[int], special: SpecialIds) -> Tensor:
    """[2, S]: positions, which stall at the mask from <sop> on, and block positions, 1 at <sop>."""
    context = ids.index(special.sop)
    mask_position = ids.index(special.gmask if special.gmask in ids else special.mask)
    answer = len(ids) - context
    position = [*range(context), *[mask_position] * answer]
    block_position = [*[0] * context, *range(1, answer + 1)]
    return torch.tensor([position, block_position])


def glm130b_positions(ids: Sequence[int], special: SpecialIds) -> Tensor:
    """[S]: counts on for [gMASK]; with a [MASK] or else an [sMASK], the answer stalls there."""
    context = ids.index(special.sop)
    for mask in (special.mask, special.smask):
        if mask in ids:
            return torch.tensor([*range(context), *[ids.index(mask)] * (len(ids) - context)])
    return torch.arange(len(ids))


def left_pad(
    rows: Sequence[Sequence[int]], masks: Sequence[Tensor], positions: Sequence[Tensor], pad: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Padded as the published tokenizer does: ids [B, S], mask [B, 1, S, S], positions [B, (2,) S]."""
    width = max(map(len, rows))
    ids, wide_masks, wide_positions = [], [], []
    for row, mask, position in zip(rows, masks, positions, strict=True):
        extra = width - len(row)
        ids.append(torch.tensor([*[pad] * extra, *row]))
        wide_masks.append(F.pad(mask, (extra, 0, extra, 0), value=True)[None])
        wide_positions.append(F.pad(position, (extra, 0)))
    return torch.stack(ids), torch.stack(wide_masks), torch.stack(wide_positions)


def rotary(x: Tensor, positions: Tensor) -> Tensor:
    """Rotate x [B, S, heads, dim] by positions [B, S]; pairs are (i, i + dim/2)."""
    dim = x.shape[-1]
    inv_freq = (1.0 / 10000 ** (torch.arange(0, dim, 2).float() / dim)).half()
    angle_dtype = torch.float16 if x.dtype == torch.float16 else torch.float32
    angle = positions.to(angle_dtype)[:, :, None, None] * inv_freq.to(angle_dtype)
    angle = torch.cat([angle, angle], dim=-1).to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return x * angle.cos() + torch.cat([-second, first], dim=-1) * angle.sin()


def rotate_query_or_key(x: Tensor, positions: Tensor, shape: Shape) -> Tensor:
    if shape.glm130b:
        return rotary(x, positions)
    by_position, by_block = x.chunk(2, dim=-1)
    return torch.cat([rotary(by_position, positions[:, 0]), rotary(by_block, positions[:, 1])], dim=-1)


def attention(
    x: Tensor,
    weights: Weights,
    layer: int,
    positions: Tensor,
    mask: Tensor,
    shape: Shape,
    prefix: Tensor | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    name = f"transformer.layers.{layer}.attention."
    batch, length, hidden = x.shape
    fused = F.linear(x, weights[name + "query_key_value.weight"], weights[name + "query_key_value.bias"])
    query, key, value = fused.view(batch, length, shape.heads, -1).chunk(3, dim=-1)
    query, key = (rotate_query_or_key(part, positions, shape) for part in (query, key))
    seen = {"query": query, "key": key, "value": value}
    if prefix is not None:  # [layers * 2, P, heads, head_dim]: key and value of each layer, without rotary
        key = torch.cat([prefix[2 * layer].expand(batch, -1, -1, -1), key], dim=1)
        value = torch.cat([prefix[2 * layer + 1].expand(batch, -1, -1, -1), value], dim=1)
        mask = F.pad(mask, (prefix.shape[1], 0), value=False)

    scale = math.sqrt(query.shape[-1]) * (layer + 1)
    scores = torch.einsum("bqhd,bkhd->bhqk", query / scale, key).masked_fill(mask, -10000)
    if scores.dtype == torch.float16:
        scores = scores.float()
    probs = (scores * (layer + 1)).softmax(dim=-1).to(x.dtype)
    context = torch.einsum("bhqk,bkhd->bqhd", probs, value).reshape(batch, length, hidden)
    seen |= {"attention_probs": probs, "context": context}
    return row_parallel(context, weights, name + "dense", shape), seen


def mlp(x: Tensor, weights: Weights, layer: int, shape: Shape) -> Tensor:
    name = f"transformer.layers.{layer}.mlp."
    x = F.linear(x, weights[name + "dense_h_to_4h.weight"], weights[name + "dense_h_to_4h.bias"])
    if shape.glm130b:
        first, second = x.chunk(2, dim=-1)
        x = first * F.gelu(second)
    else:
        x = 0.5 * x * (1 + torch.tanh(0.7978845608028654 * x * (1 + 0.044715 * x * x)))
    return row_parallel(x, weights, name + "dense_4h_to_h", shape)


def row_parallel(x: Tensor, weights: Weights, name: str, shape: Shape) -> Tensor:
    """GLM-130B adds up the parts of all ranks before the bias, with one rank too, which shows in half."""
    if shape.glm130b:
        return F.linear(x, weights[name + ".weight"]) + weights[name + ".bias"]
    return F.linear(x, weights[name + ".weight"], weights[name + ".bias"])


def layer_norm(x: Tensor, weights: Weights, name: str, shape: Shape) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[name + ".weight"], weights[name + ".bias"], shape.epsilon)


def prefix_states(weights: Weights, shape: Shape) -> Tensor:
    """P-tuning v2 keys and values [layers * 2, P, heads, head_dim] from `transformer.prefix_encoder.*`."""
    name = "transformer.prefix_encoder."
    out = weights[name + "embedding.weight"]
    if name + "trans.0.weight" in weights:
        out = F.linear(out, weights[name + "trans.0.weight"], weights[name + "trans.0.bias"]).tanh()
        out = F.linear(out, weights[name + "trans.2.weight"], weights[name + "trans.2.bias"])
    return out.view(out.shape[0], shape.layers * 2, shape.heads, -1).transpose(0, 1)


def forward(weights: Weights, shape: Shape, ids: Tensor, positions: Tensor, mask: Tensor) -> Trace:
    """One pass over ids [B, S], positions [B, 2, S] or [B, S], and mask bool [B, 1, S, S], True = masked."""
    trace = Trace()
    tuned = "transformer.prefix_encoder.embedding.weight" in weights
    prefix = prefix_states(weights, shape) if tuned else None
    embedding = weights["transformer.word_embeddings.weight"]
    hidden = embedding[ids]
    for layer in range(shape.layers):
        name = f"transformer.layers.{layer}."
        trace.values[f"hidden_states.{layer}"] = hidden
        normed = layer_norm(hidden, weights, name + "input_layernorm", shape)
        attended, seen = attention(normed, weights, layer, positions, mask, shape, prefix)
        mixed = normed * shape.alpha + attended
        middle = layer_norm(mixed, weights, name + "post_attention_layernorm", shape)
        grown = mlp(middle, weights, layer, shape)
        hidden = middle * shape.alpha + grown
        seen |= {"input_layernorm": normed, "attention": attended}
        seen |= {"post_attention_layernorm": middle, "mlp": grown}
        trace.values |= {f"layer{layer}.{part}": value for part, value in seen.items()}
        trace.values[f"layer_output.{layer}"] = hidden
    hidden = layer_norm(hidden, weights, "transformer.final_layernorm", shape)
    trace.values[f"hidden_states.{shape.layers}"] = hidden
    trace.logits = F.linear(hidden, weights.get("lm_head.weight", embedding))
    return trace


def shifted_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of each token given those before, over all tokens of the batch not labelled -100."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


def random_weights(
    shape: Shape, hidden: int, inner: int, vocab: int, generator: torch.Generator, tied: bool
) -> Weights:
    """Weights in the spirit of the data sets: large enough that masks, positions and factors all show."""

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator) * 1.4 / max(size[-1], 16) ** 0.5

    def norm(name: str) -> Weights:
        gain, shift = torch.rand(2, hidden, generator=generator)
        return {f"{name}.weight": 0.5 + gain, f"{name}.bias": 0.4 * shift - 0.2}

    first = 2 * inner if shape.glm130b else inner
    weights = {"transformer.word_embeddings.weight": torch.randn(vocab, hidden, generator=generator)}
    for layer in range(shape.layers):
        name = f"transformer.layers.{layer}."
        weights |= norm(name + "input_layernorm") | norm(name + "post_attention_layernorm")
        for part, rows, columns in (
            ("attention.query_key_value", 3 * hidden, hidden),
            ("attention.dense", hidden, hidden),
            ("mlp.dense_h_to_4h", first, hidden),
            ("mlp.dense_4h_to_h", hidden, inner),
        ):
            weights |= {f"{name}{part}.weight": normal(rows, columns), f"{name}{part}.bias": normal(rows)}
    weights |= norm("transformer.final_layernorm")
    return weights if tied else weights | {"lm_head.weight": normal(vocab, hidden)}
