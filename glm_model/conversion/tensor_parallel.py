"""Joins the tensor parallel parts of GLM-130B's tensors, and cuts whole tensors into parts.

Names are the published ones. Meta tensors are accepted, for shapes alone. The rules are those of GLM-130B's
tools/convert_tp.py and SwissArmyTransformer's parallel layers. This file imports no other file of the package.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Cut = Literal["rows", "columns", "halves", "scales", "whole"]
"""How a tensor is cut. ``rows``, ``columns``: each rank has consecutive ones. ``halves``: each rank has its part of the
first half of the rows, then its part of the second half (GeGLU). ``whole``: each rank has the whole tensor. ``scales``:
scales of a weight that is cut by columns; each rank quantizes its own columns, so it has its own scale per row."""

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
    """Return how the tensor of this published name is cut."""
    *_, layer, kind = name.split(".")
    return _CUTS[layer][kind]


def join(parts: Sequence[Tensor], cut: Cut) -> Tensor:
    """Return the whole tensor of the parts of all ranks, given in the order of ranks. A single part is returned itself.

    Scales that are equal on all ranks become [rows]; different ones become [rows, ranks].
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
    """Return the parts of a tensor for all ranks, in their order: the inverse of :func:`join`. Parts may be views.

    Raises:
        ValueError: rows or columns do not divide by the ranks, or one rank would hold columns of a weight that have
            different scales.
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
    """Return the scales [rows] of each rank.

    Scales [rows] hold for all ranks. Of [rows, sources], a rank gets the column that holds for its share of the
    weight's columns; ValueError if its share has several.
    """
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
