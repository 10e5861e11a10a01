"""Compute position ids from token ids, as pure functions."""

import torch
from torch import Tensor

from ..errors import UnsupportedError
from . import masking
from .configuration import GLMConfig


def block_position_ids(padding: Tensor, context: Tensor, blank: Tensor, length: int) -> Tensor:
    """Return ChatGLM-6B's two rows of positions, LongTensor [batch, 2, length].

    Row 0 counts through the context and then stays at the blank; row 1 is 0 in the context and counts from 1 at
    ``<sop>``. Padding in front shifts nothing: positions count from the first real token.

    Args:
        padding: number of padding tokens in front of each row, [batch].
        context: index of ``<sop>`` in each row, [batch].
        blank: index of the mask token in each row, [batch].
        length: number of positions.
    """
    index = torch.arange(length, device=context.device)
    in_context = index < context[:, None]
    row_0 = torch.where(in_context, index - padding[:, None], (blank - padding)[:, None]).clamp_min(0)
    row_1 = torch.where(in_context, 0, index - context[:, None] + 1)
    return torch.stack([row_0, row_1], dim=1)


def sequence_position_ids(padding: Tensor, context: Tensor, blank: Tensor, counts_on: Tensor, length: int) -> Tensor:
    """Return GLM-130B's single row of positions, LongTensor [batch, length].

    Args:
        counts_on: bool [batch]; True where the answer goes on counting ([gMASK]), False where it stays at the
            blank ([MASK], [sMASK]). The other arguments are those of :func:`block_position_ids`.
    """
    index = torch.arange(length, device=context.device)
    counted = (index - padding[:, None]).clamp_min(0)
    stays = (index >= context[:, None]) & ~counts_on[:, None]
    return torch.where(stays, (blank - padding)[:, None], counted)


def count_padding(config: GLMConfig, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Return the number of padding tokens in front of each row, LongTensor [batch].

    It is counted in a 0/1 mask [batch, keys] if there is one, else by the pad id.
    """
    if attention_mask is not None and attention_mask.ndim == 2:
        return masking.padding_from_mask(attention_mask[:, : input_ids.shape[1]])
    return masking.left_padding(input_ids, config.pad_token_id)


def derive_position_ids(
    config: GLMConfig, input_ids: Tensor, attention_mask: Tensor | None = None, length: int | None = None
) -> Tensor:
    """Return the positions of whole sequences, [batch, 2, length] or (GLM-130B) [batch, length]; see ``masking``.

    Args:
        config: the configuration of the decoder.
        input_ids: LongTensor [batch, tokens].
        attention_mask: 0/1 [batch, tokens], 0 for padding; None counts the pad id in front.
        length: the number of positions. With more positions than ids the rest are those of the answer to come; they
            hold as long as the answer contains no mask token. None: as many as ids.

    Raises:
        ValueError: a row lacks ``<sop>`` or a mask token.
    """
    padding = count_padding(config, input_ids, attention_mask)
    context = masking.context_length(input_ids, config.bos_token_id)
    length = length or input_ids.shape[1]
    if config.position_encoding_2d:
        blank, _ = masking.mask_position(input_ids, config.mask_token_priority)
        return block_position_ids(padding, context, blank, length)
    # GLM-130B fixes every position before it writes, so a mask token in the answer moves nothing.
    answer = torch.arange(input_ids.shape[1], device=input_ids.device) > context[:, None]
    blank, kind = masking.mask_position(input_ids.masked_fill(answer, -1), config.mask_token_priority)
    return sequence_position_ids(padding, context, blank, kind == config.gmask_token_id, length)


def extend_position_ids(config: GLMConfig, position_ids: Tensor, input_ids: Tensor) -> Tensor:
    """Return the positions of a prompt, continued for the tokens that were generated after it.

    With block positions row 0 repeats its last value and row 1 counts on. A single row counts on after [gMASK] and
    repeats its last value after [MASK] and [sMASK].

    Args:
        config: the configuration of the decoder.
        position_ids: positions of the prompt, [batch, 2, prompt] or (GLM-130B) [batch, prompt].
        input_ids: all ids so far, LongTensor [batch, length].
    """
    new = input_ids.shape[1] - position_ids.shape[-1]
    if new <= 0:
        return position_ids
    steps = torch.arange(1, new + 1, device=position_ids.device)
    if config.position_encoding_2d:
        increments = torch.stack([torch.zeros_like(steps), steps]).expand(len(position_ids), -1, -1)
    else:
        _, kind = masking.mask_position(input_ids[:, : position_ids.shape[-1]], config.mask_token_priority)
        increments = steps * (kind == config.gmask_token_id).long()[:, None]
    return torch.cat([position_ids, position_ids[..., -1:] + increments], dim=-1)


def prompt_position_ids(
    config: GLMConfig, input_ids: Tensor | None, attention_mask: Tensor | None, is_prompt: bool
) -> Tensor:
    """Return the positions of a prompt that was passed to the decoder without any; the arguments are the decoder's.

    Raises:
        ValueError: there are no ids, or the ids are new tokens alone.
        UnsupportedError: a whole prompt stands behind keys that are in the cache already.
    """
    if input_ids is not None and not is_prompt and bool((input_ids == config.bos_token_id).any()):
        raise UnsupportedError(
            "the cache holds keys in front of a whole prompt, as PEFT's PrefixTuning puts them there: GLM's positions "
            "count from the prompt. ChatGLM-6B has P-Tuning v2 built in: from_pretrained(..., pre_seq_len=LENGTH) and "
            "glm_model.load_prefix; or use PEFT's LoRA."
        )
    if input_ids is None or not is_prompt:
        raise ValueError(
            "position_ids cannot be derived from "
            + ("inputs_embeds" if input_ids is None else "new tokens alone when the prompt is in the cache")
            + "; pass them (model.derive_position_ids(all ids so far) computes them), or use generate(). For tuned "
            "prompts (PEFT's PromptTuning) use P-Tuning v2, which is built in: from_pretrained(..., pre_seq_len=LENGTH)"
        )
    return derive_position_ids(config, input_ids, attention_mask)


def require_position_per_token(config: GLMConfig, position_ids: Tensor, length: int) -> None:
    """Raise ValueError unless there is one position, or one pair of them, for each of ``length`` tokens."""
    rows = (2,) if config.position_encoding_2d else ()
    if position_ids.shape[1:] != (*rows, length):
        wanted = ", ".join(["batch", *map(str, rows), str(length)])
        raise ValueError(
            f"position_ids has shape {list(position_ids.shape)}; for {length} tokens it must be [{wanted}]"
        )
