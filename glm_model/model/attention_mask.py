"""Build the mask of one forward pass, in the form that the attention implementation takes."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask

from ..errors import UnsupportedError
from . import masking
from .configuration import GLMConfig
from .positions import count_padding
from .rounding import attention_in_use
from .row_cache import RowCaches

LayerMask = Tensor | BlockMask | None
"""A mask as the layers take it: bool (True = visible) or additive float [batch, 1, length, keys]; flex_attention's
``BlockMask``; or None if every token sees every key."""


def attention_mask_of_pass(
    config: GLMConfig,
    input_ids: Tensor | None,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None,
    cache: Cache | None,
    is_prompt: bool,
) -> LayerMask:
    """Return the mask that the layers take; None if every token sees every key.

    Args:
        config: the configuration of the decoder.
        input_ids: LongTensor [batch, length], or None.
        inputs_embeds: [batch, length, hidden]; only its shape, dtype and device are used.
        attention_mask: as the decoder takes it: None, [batch, keys] or [batch, 1, length, keys].
        cache: the cache of the tokens before, or None. The rows of :class:`.RowCaches` have one new token each, which
            sees all of its row.
        is_prompt: whether these are the first tokens.

    Raises:
        ValueError: a mask of another shape or dtype; no ids and no 4-D mask for a prompt.
        UnsupportedError: a 4-D mask with flex_attention.
    """
    if isinstance(cache, RowCaches):
        assert attention_mask is None, "rows of different lengths share no mask"
        assert inputs_embeds.shape[1] == 1, "a row takes one new token a step"
        return None
    if attention_mask is not None and attention_mask.ndim not in (2, 4):
        raise ValueError(
            f"attention_mask has shape {list(attention_mask.shape)}; it must be [batch, keys], 0 for padding, or "
            "[batch, 1, tokens, keys], True = masked"
        )
    if attention_mask is not None and attention_mask.ndim == 4:
        return _given_mask(config, attention_mask, inputs_embeds, cache)
    context_blocks = None
    if is_prompt:
        if input_ids is None:
            raise ValueError("with inputs_embeds pass a 4-D attention_mask: the context's end is not known")
        padding = count_padding(config, input_ids, attention_mask)
        if attention_mask is None and bool(padding.any()):
            attention_mask = masking.mask_from_padding(padding, input_ids.shape[1])
        context = masking.context_length(input_ids, config.bos_token_id)
        context_blocks = masking.context_block_ids(padding, context, input_ids.shape[1])
    if attention_mask is not None and bool(attention_mask.all()):
        attention_mask = None
    mask: LayerMask = create_causal_mask(
        config,
        inputs_embeds,
        attention_mask,
        cache,
        block_sequence_ids=context_blocks,
        allow_is_causal_skip=inputs_embeds.shape[1] == 1,
    )
    if attention_mask is not None and is_prompt and isinstance(mask, Tensor) and mask.dtype == torch.bool:
        mask = masking.additive_mask(mask, inputs_embeds.dtype)
    return mask


def _given_mask(config: GLMConfig, attention_mask: Tensor, inputs_embeds: Tensor, cache: Cache | None) -> Tensor:
    """Return the caller's 4-D mask as an additive float mask that covers every key of the cache."""
    if config._attn_implementation == "flex_attention":
        raise UnsupportedError("flex_attention takes no ready 4-D attention_mask; use 'sdpa' or 'eager'")
    if attention_mask.dtype != torch.bool and not attention_mask.is_floating_point():
        raise ValueError(
            f"a 4-D attention_mask must be bool (True = masked) or an additive float mask, not {attention_mask.dtype}"
        )
    visible = ~attention_mask if attention_mask.dtype == torch.bool else attention_mask
    query_length, key_length = inputs_embeds.shape[1], attention_mask.shape[-1]
    if cache is not None:
        key_length, _ = cache.get_mask_sizes(query_length, 0)
    if attention_mask.shape[-2] != query_length or attention_mask.shape[-1] > key_length:
        raise ValueError(
            f"attention_mask has shape {list(attention_mask.shape)}; for {query_length} new tokens and "
            f"{key_length} keys it must be [batch, 1, {query_length}, {key_length}]"
        )
    if visible.dtype == torch.bool:
        by_steps = attention_in_use(config, inputs_embeds) == "eager"
        visible = masking.additive_mask(visible, torch.float32 if by_steps else inputs_embeds.dtype)
    lowest = torch.finfo(visible.dtype).min
    return F.pad(visible, (0, key_length - attention_mask.shape[-1]), value=lowest)
