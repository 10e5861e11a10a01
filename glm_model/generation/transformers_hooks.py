"""Generation with a bidirectional prompt: what transformers' ``generate`` must know of GLM's masks and positions.

A step's masks and positions are derived from all ids so far, or extended from those given for the prompt. What a
prefix-LM cannot do (prefill in chunks, continuous batching by a causal scheduler, going on from a cached part of a
context) is refused here.
"""

from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import Cache
from transformers.generation import GenerationConfig

from ..errors import UnsupportedError
from ..model import masking
from ..model.kv_cache import new_cache
from ..model.positions import count_padding, derive_position_ids, extend_position_ids
from .published_beams import PublishedBeamScoresMixin


def _as_wide_as(cache: Cache, mask: Tensor) -> Tensor:
    """Masked where a static cache is empty: a compiled step would be compiled again for each new shape."""
    width, _ = cache.get_mask_sizes(mask.shape[-2], 0)
    return F.pad(mask, (0, width - mask.shape[-1]), value=True).clone(memory_format=torch.contiguous_format)


class PrefixLMGenerationMixin(PublishedBeamScoresMixin):
    """The hooks of ``generate`` for a model whose prompt is bidirectional.

    Attributes:
        cache_dtype: to store keys and values in where no cache is given; None is that of the activations.
        cuda_graphs: whether an answer that is streamed on one GPU is decoded by
            :mod:`glm_model.generation.cuda_graphs`.
    """

    cache_dtype: torch.dtype | None = None
    cuda_graphs: bool = True

    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Any:
        """As transformers', and it takes the 4-D mask of the published tokenizer (bool, True = masked) too."""
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.ndim == 4:
            kwargs["prompt_mask"] = kwargs.pop("attention_mask")
        elif mask is not None:
            # transformers leaves out a mask of ones, and then a text that begins with the pad id would be padding.
            kwargs["prompt_padding"] = masking.padding_from_mask(mask)
        if kwargs.get("position_ids") is not None:
            # Under a name that transformers does not know: it would go on counting by a causal model's rules, and takes
            # positions of three dimensions for a multimodal model's, whose batch comes second.
            kwargs["prompt_position_ids"] = kwargs.pop("position_ids")
        return super().generate(inputs, **kwargs)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        prompt_mask: Tensor | None = None,
        prompt_position_ids: Tensor | None = None,
        prompt_padding: Tensor | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Inputs of one forward pass.

        Args:
            input_ids: all ids so far, [batch, length].
            prompt_mask: 4-D, as :meth:`generate` was given it; positions and padding (tokens in front, [batch]) too.
        """
        if is_first_iteration:
            self._refuse_partial_context(input_ids, past_key_values)
        if attention_mask is None and prompt_padding is not None:
            attention_mask = masking.mask_from_padding(prompt_padding, input_ids.shape[1])
        given = position_ids if prompt_position_ids is None else prompt_position_ids
        if given is None:
            position_ids = derive_position_ids(self.config, input_ids, attention_mask)
        else:
            position_ids = extend_position_ids(self.config, given, input_ids)
        query_length = next_sequence_length or input_ids.shape[1]
        static = past_key_values if past_key_values is not None and past_key_values.is_compileable else None
        if prompt_mask is None and static is not None:
            prompt_mask = self._mask_for_static_cache(input_ids, attention_mask)
        if prompt_mask is not None:
            mask = masking.extend_mask(prompt_mask, input_ids.shape[1])[:, :, -query_length:]
            attention_mask = mask if static is None else _as_wide_as(static, mask)
        return super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )

    def _mask_for_static_cache(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Given from outside, as a compiled step cannot look at the ids."""
        padding = count_padding(self.config, input_ids, attention_mask)
        context = masking.context_length(input_ids, self.config.bos_token_id)
        return masking.prefix_mask(padding, context, input_ids.shape[1])

    def _refuse_partial_context(self, input_ids: Tensor, past_key_values: Cache | None) -> None:
        cached = 0 if past_key_values is None else int(past_key_values.get_seq_length())
        if cached == 0:
            return
        context = int(masking.context_length(input_ids, self.config.bos_token_id).max())
        if cached < context:
            raise UnsupportedError(
                f"past_key_values holds {cached} tokens of a context of {context}: GLM's context is bidirectional, so "
                "its first part cannot be computed without the rest. Start from an empty cache."
            )

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        usual = generation_config.cache_implementation in (None, "dynamic") and generation_config.use_cache
        if usual and model_kwargs.get("past_key_values") is None:
            model_kwargs["past_key_values"] = new_cache(self.device, self.cache_dtype)
            return
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)

    def _prepare_position_ids_for_generation(self, *args: Any, **kwargs: Any) -> None:
        # Derived from all ids at every step instead.
        return None

    def _prepare_attention_mask_for_generation(
        self, inputs_tensor: Tensor, generation_config: GenerationConfig, model_kwargs: dict[str, Any]
    ) -> Tensor:
        # Padding stands in front; the same id inside a prompt is text, as it was for the original.
        input_ids = model_kwargs.get("input_ids", inputs_tensor)
        padding = masking.left_padding(input_ids, self.config.pad_token_id)
        return masking.mask_from_padding(padding, input_ids.shape[1])

    def _prefill(self, input_ids: Tensor, generation_config: GenerationConfig, *args: Any, **kwargs: Any) -> Any:
        if generation_config.prefill_chunk_size is not None:
            raise UnsupportedError(
                f"prefill_chunk_size={generation_config.prefill_chunk_size}: a bidirectional context cannot be "
                "prefilled in chunks; leave it unset."
            )
        return super()._prefill(input_ids, generation_config, *args, **kwargs)

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: the scheduler splits prompts and shares prefixes, which needs causal attention."""
        raise UnsupportedError(
            "continuous batching prefills prompts in causal chunks, which a bidirectional context does not allow; "
            "use generate() on a left-padded batch."
        )
