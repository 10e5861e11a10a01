"""Compute the visibility masks and the blank's index from token ids, as pure functions.

A GLM sequence is ``context <sop> answer``. The context, with its blank ([MASK], [gMASK], [sMASK]), is bidirectional;
``<sop>`` and the answer are causal and stand at the blank's position. Source: GLM-130B paper (arXiv 2210.02414)
section 2.1; ``get_masks`` and ``get_position_ids`` of the published ChatGLM-6B code, and
``get_masks_and_position_ids`` of GLM-130B's ``generate.py``.

Nothing here depends on models, caches or attention kernels. All ids are LongTensors of shape [batch, length].
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def left_padding(input_ids: Tensor, pad_token_id: int) -> Tensor:
    """Return the number of padding tokens in front of each row, LongTensor [batch]."""
    return (input_ids == pad_token_id).long().cumprod(dim=-1).sum(dim=-1)


def padding_from_mask(attention_mask: Tensor) -> Tensor:
    """Return the number of zeros in front of each row of a 0/1 mask [batch, length], LongTensor [batch]."""
    return (attention_mask == 0).long().cumprod(dim=-1).sum(dim=-1)


def mask_from_padding(padding: Tensor, length: int) -> Tensor:
    """Return the 0/1 mask, LongTensor [batch, length], of rows with ``padding`` [batch] tokens of padding in front."""
    return (torch.arange(length, device=padding.device) >= padding[:, None]).long()


def context_length(input_ids: Tensor, sop_token_id: int) -> Tensor:
    """Return the index of the first ``<sop>`` of each row, LongTensor [batch]: all columns before it are context.

    Raises:
        ValueError: a row holds no ``<sop>``.
    """
    is_sop = input_ids == sop_token_id
    _require_every_row(is_sop, f"<sop> (id {sop_token_id})")
    return _first(is_sop)


def mask_position(input_ids: Tensor, mask_token_priority: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the index of the blank to fill in each row, and the id of its mask token.

    Args:
        input_ids: LongTensor [batch, length].
        mask_token_priority: ids of mask tokens; if a row holds several kinds, the first one listed here counts.

    Returns:
        Two LongTensors [batch].

    Raises:
        ValueError: a row holds none of the mask tokens.
    """
    position = torch.zeros_like(input_ids[:, 0])
    kind = torch.full_like(position, -1)
    for token_id in reversed(mask_token_priority):
        is_mask = input_ids == token_id
        present = is_mask.any(dim=-1)
        position = torch.where(present, _first(is_mask), position)
        kind = torch.where(present, token_id, kind)
    _require_every_row((kind >= 0)[:, None], f"mask token (one of ids {tuple(mask_token_priority)})")
    return position, kind


def context_block_ids(padding: Tensor, context: Tensor, length: int) -> Tensor:
    """Return 0 for context tokens and -1 for all others, LongTensor [batch, length].

    These are the ``block_sequence_ids`` of transformers' ``create_causal_mask``: tokens of block 0 see each other in
    both directions.
    """
    index = torch.arange(length, device=context.device)
    in_context = (index >= padding[:, None]) & (index < context[:, None])
    return torch.where(in_context, 0, -1)


def prefix_mask(padding: Tensor, context: Tensor, length: int) -> Tensor:
    """Return the mask of whole sequences, bool [batch, 1, length, length], True = masked.

    Every token sees the whole context, itself and the tokens before it. Padding is masked in rows and in columns.
    """
    index = torch.arange(length, device=context.device)
    in_context = context_block_ids(padding, context, length) == 0
    is_real = index >= padding[:, None]
    visible = (index[:, None] >= index) | in_context[:, None, :]
    return ~(visible & is_real[:, None, :] & is_real[:, :, None])[:, None]


def extend_mask(attention_mask: Tensor, length: int) -> Tensor:
    """Return the mask of a prompt (bool [batch, 1, prompt, prompt], True = masked) extended to ``length`` tokens.

    A new row sees the columns that the prompt's last row sees, and the new tokens up to itself; old rows do not see new
    tokens. Source: ``_update_model_kwargs_for_generation`` of the published ChatGLM-6B code.
    """
    prompt = attention_mask.shape[-1]
    new = length - prompt
    if new <= 0:
        return attention_mask
    grown = F.pad(attention_mask, (0, new), value=True)
    future = torch.ones(new, new, dtype=torch.bool, device=attention_mask.device).triu(1)
    seen_prompt = attention_mask[:, :, -1:].expand(-1, -1, new, -1)
    rows = torch.cat([seen_prompt, future.expand(len(attention_mask), 1, new, new)], dim=-1)
    return torch.cat([grown, rows], dim=-2)


def additive_mask(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a bool mask (True = visible) as a float mask of the same shape, to be added to scores.

    Masked places get the lowest finite value, which absorbs any score: a row that sees nothing averages all keys
    evenly, as in the original.
    """
    return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)


def _first(flags: Tensor) -> Tensor:
    return flags.int().argmax(dim=-1)


def _require_every_row(present: Tensor, what: str) -> None:
    rows = (~present.any(dim=-1)).nonzero().flatten().tolist()
    if rows:
        raise ValueError(
            f"row {rows[0]} of input_ids holds no {what}; a GLM prompt is `text with a mask token` + <sop>. Encode it "
            "with the tokenizer's special tokens, or pass attention_mask (4-D) and position_ids yourself. (lm-eval's "
            "own `hf` model cannot: use `python -m glm_model.evaluation --model glm`.)"
        )
