"""How GLM-130B's tensors are cut for tensor parallelism: joining the parts of all ranks, and cutting again.

Names are the published ones. Works on meta tensors, too, where only shapes are wanted. Imports nothing of ours.
Source: GLM-130B's tools/convert_tp.py, and SwissArmyTransformer's parallel layers.
"""

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

Cut = Literal["rows", "columns", "halves", "scales", "whole"]
"""``rows`` and ``columns``: each rank has a run of them. ``halves``: each rank has its part of the first half of the
rows, then its part of the second half (GeGLU). ``whole``: each rank has all of it. ``scales``: those of a weight that
is cut by columns; each rank quantizes its own columns, so each has a scale of its own for every row."""

_BY_ROWS: dict[str, Cut] = {"weight": "rows", "weight_scale": "rows", "bias": "rows"}
_BY_COLUMNS: dict[str, Cut] = {"weight": "columns", "weight_scale": "scales", "bias": "whole"}
_BY_HALVES: dict[str, Cut] = {"weight": "halves", "weight_scale": "halves", "bias": "halves"}
_WHOLE: dict[str, Cut] = {"weight": "whole", "bias": "whole"}
_CUTS = {
    "word_embeddings": _BY_ROWS,
    "query_key_value": _BY_ROWS,
    "dense": _BY_COLUMNS,
    "dense_h_to_4h": _BY_HALVES,
    "dense_4h_to_h": _BY_COLUMNS,
    "input_layernorm": _WHOLE,
    "post_attention_layernorm": _WHOLE,
    "final_layernorm": _WHOLE,
}


def cut_of(name: str) -> Cut:
    """How the tensor of this published name is cut."""
    *_, layer, kind = name.split(".")
    return _CUTS[layer][kind]


def layer_of(name: str) -> str:
    """The block that a tensor belongs to, or its own name if it is in none."""
    match = re.match(r"transformer\.layers\.\d+", name)
    return match[0] if match else name


def join(parts: Sequence[Tensor], cut: Cut) -> Tensor:
    """The whole tensor of the parts of all ranks, in their order; of one rank, its part itself.

    Scales that are equal on all ranks become one column, [rows], else they stay one column a rank, [rows, ranks].
    """
    first = parts[0]
    if len(parts) == 1 or cut == "whole":
        return first
    if cut == "scales":
        return first if all(torch.equal(first, part) for part in parts) else torch.stack(list(parts), dim=1)
    if cut == "halves":
        halves = [part.chunk(2) for part in parts]
        return torch.cat([part[half] for half in (0, 1) for part in halves])
    return torch.cat(list(parts), dim=1 if cut == "columns" else 0)


def split(tensor: Tensor, cut: Cut, ranks: int) -> list[Tensor]:
    """The inverse of :func:`join` for any number of ranks: views where they can be.

    Raises:
        ValueError: rows or columns that do not divide by the ranks, or columns with different scales that would come
            to lie on one rank.
    """
    if cut == "scales":
        return _split_scales(tensor, ranks)
    if cut == "whole" or ranks == 1:
        return [tensor] * ranks
    if cut == "halves":
        halves = (_divide(half, 0, ranks) for half in tensor.chunk(2))
        return [torch.cat(pair) for pair in zip(*halves, strict=True)]
    return _divide(tensor, 1 if cut == "columns" else 0, ranks)


def _divide(tensor: Tensor, dim: int, ranks: int) -> list[Tensor]:
    if tensor.shape[dim] % ranks:
        kind = "columns" if dim else "rows"
        if dim and tensor.dtype == torch.int8:
            kind = "bytes of packed columns"
        raise ValueError(f"{tensor.shape[dim]} {kind} do not divide by {ranks} ranks")
    return list(tensor.chunk(ranks, dim=dim))


def _split_scales(scale: Tensor, ranks: int) -> list[Tensor]:
    """A copy for each rank; of [rows, sources] the column that holds for the rank's share of the weight's columns."""
    if scale.ndim == 1:
        return [scale] * ranks
    sources = scale.shape[1]
    chosen = []
    for rank in range(ranks):
        columns = scale[:, rank * sources // ranks : -(-(rank + 1) * sources // ranks)]
        if not torch.equal(columns, columns[:, :1].expand_as(columns)):
            raise ValueError(
                f"{sources} ranks have quantized it with scales of their own, so {ranks} ranks would need more than "
                "one scale for a row"
            )
        chosen.append(columns[:, 0].contiguous())
    return chosen


def by_layer(names: Sequence[str]) -> list[list[str]]:
    """Names in their order, those of a block together."""
    return [list(group) for _, group in groupby(names, key=layer_of)]
