"""transformers' ``generate`` for a model whose prompt is bidirectional: a face for users of transformers.

A step's masks and positions are derived from all ids so far, or extended from those given for the prompt. What a
prefix-LM cannot do (prefill in chunks, continuous batching by a causal scheduler, going on from a cached part of a
context) is refused here. Nothing of this package's own passes through ``generate`` but what takes all its arguments:
the published ``chat`` and ``stream_generate``.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import GenerationConfig
from transformers.cache_utils import Cache
from transformers.generation import (
    EosTokenCriteria,
    GenerationMixin,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteriaList,
)

from ..errors import UnsupportedError
from ..model import masking
from ..model.kv_cache import new_cache
from ..model.positions import count_padding, derive_position_ids, extend_position_ids
from ..model.transformers_names import CACHE, OLD_CACHE, one_cache
from .answer import Answer, make_guesser, write_answer
from .passes import DecodingBatch
from .sampling import Sampler


def _as_wide_as(cache: Cache, mask: Tensor) -> Tensor:
    """Masked where a static cache is empty: a compiled step would be compiled again for each new shape."""
    width, _ = cache.get_mask_sizes(mask.shape[-2], 0)
    return F.pad(mask, (0, width - mask.shape[-1]), value=True).clone(memory_format=torch.contiguous_format)


class PrefixLMGeneration(GenerationMixin):
    """The hooks of ``generate``."""

    @classmethod
    def can_generate(cls) -> bool:
        """Return True; transformers would look for the name of its own mixin among the direct bases."""
        return True

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
        for name in ("cache", OLD_CACHE):
            if name != CACHE and name in kwargs:
                kwargs[CACHE] = one_cache(kwargs.get(CACHE), kwargs.pop(name))
        return super().generate(inputs, **kwargs)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        cache: Cache | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        prompt_mask: Tensor | None = None,
        prompt_position_ids: Tensor | None = None,
        prompt_padding: Tensor | None = None,
        is_first_iteration: bool | None = False,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the inputs of one forward pass.

        Args:
            input_ids: all ids so far, [batch, length].
            prompt_mask: 4-D, as :meth:`generate` was given it; positions and padding (tokens in front, [batch]) too.
        """
        cache = one_cache(cache, past_key_values)
        if is_first_iteration:
            self._refuse_partial_context(input_ids, cache)
        if attention_mask is None and prompt_padding is not None:
            attention_mask = masking.mask_from_padding(prompt_padding, input_ids.shape[1])
        given = position_ids if prompt_position_ids is None else prompt_position_ids
        if given is None:
            position_ids = derive_position_ids(self.config, input_ids, attention_mask)
        else:
            position_ids = extend_position_ids(self.config, given, input_ids)
        query_length = next_sequence_length or input_ids.shape[1]
        static = cache if cache is not None and cache.is_compileable else None
        if prompt_mask is None and static is not None:
            prompt_mask = self._mask_for_static_cache(input_ids, attention_mask)
        if prompt_mask is not None:
            mask = masking.extend_mask(prompt_mask, input_ids.shape[1])[:, :, -query_length:]
            attention_mask = mask if static is None else _as_wide_as(static, mask)
        return super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            attention_mask=attention_mask,
            position_ids=position_ids,
            is_first_iteration=is_first_iteration,
            **{CACHE: cache},
            **kwargs,
        )

    def _mask_for_static_cache(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Given from outside, as a compiled step cannot look at the ids."""
        padding = count_padding(self.config, input_ids, attention_mask)
        context = masking.context_length(input_ids, self.config.bos_token_id)
        return masking.prefix_mask(padding, context, input_ids.shape[1])

    def _refuse_partial_context(self, input_ids: Tensor, cache: Cache | None) -> None:
        cached = 0 if cache is None else int(cache.get_seq_length())
        if cached == 0:
            return
        context = int(masking.context_length(input_ids, self.config.bos_token_id).max())
        if cached < context:
            raise UnsupportedError(
                f"the cache holds {cached} tokens of a context of {context}: GLM's context is bidirectional, so "
                "its first part cannot be computed without the rest. Start from an empty cache."
            )

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        usual = generation_config.cache_implementation in (None, "dynamic") and generation_config.use_cache
        if usual and model_kwargs.get(CACHE) is None:
            model_kwargs[CACHE] = new_cache(self.device, self.runtime.cache_dtype)
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
        """Raise UnsupportedError: the scheduler splits prompts and shares prefixes, which needs causal attention."""
        raise UnsupportedError(
            "continuous batching prefills prompts in causal chunks, which a bidirectional context does not allow; "
            "use generate() on a left-padded batch."
        )


Step = tuple[Tensor, bool]
"""All ids so far, [batch, length], and whether the newest token is the last one."""


def generate_steps(
    model: Any,
    input_ids: Tensor,
    generator: torch.Generator | None = None,
    prompt_lookup_num_tokens: int = 0,
    **kwargs: Any,
) -> Iterator[Step]:
    """Yield a :data:`Step` after every token; a prompt that is ``max_length`` long, where that counts, yields nothing.

    ``generate`` prepares processors, stopping criteria, cache and padding. A single unpadded prompt in a growing cache
    is then decoded by this package's own loop, everything else step by step as ``generate`` does.

    Args:
        generator: source of randomness for sampling; None is torch's own.
        prompt_lookup_num_tokens: how many tokens of the text so far to try as its continuation in each step, as in
            ``generate``; the tokens that come out are the same. 0 for none.
        kwargs: what ``generate`` takes, except beams.

    Raises:
        UnsupportedError: prompt lookup for a batch, a padded prompt, given masks or positions, or another cache.
    """
    by_config = getattr(kwargs.get("generation_config"), "max_new_tokens", None)
    counts_new_tokens = kwargs.get("max_new_tokens", by_config) is not None
    max_length = None if counts_new_tokens else kwargs.get("max_length")
    if max_length is not None and input_ids.shape[1] >= max_length:
        return iter(())
    loop = partial(
        _decode,
        generator=generator,
        lookup_tokens=prompt_lookup_num_tokens or 0,
        owns_cache=kwargs.get("cache") is None and kwargs.get(OLD_CACHE) is None,
    )
    steps: Iterator[Step] = model.generate(input_ids, custom_generate=loop, **kwargs)
    return steps


def _decode(
    model: Any,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    generator: torch.Generator | None,
    lookup_tokens: int,
    owns_cache: bool,
    **model_kwargs: Any,
) -> Iterator[Step]:
    """Decode as transformers' ``custom_generate`` asks for it; generator, lookup_tokens and owns_cache are our own."""
    sampler = Sampler(logits_processor, bool(generation_config.do_sample), generator)
    cache, mask = model_kwargs.get(CACHE), model_kwargs.get("attention_mask")
    # A mask of ones hides nothing; newer releases of transformers leave it out themselves.
    shown = mask is None or bool(mask.all())
    given = any(model_kwargs.get(name) is not None for name in ("prompt_mask", "prompt_position_ids"))
    if len(input_ids) == 1 and cache is not None and not cache.is_compileable and shown and not given:
        is_told = model_kwargs.get("prompt_padding") is not None  # and if so that there is none
        ends, longest, others = _limits(stopping_criteria)
        guess = make_guesser(lookup_tokens, generation_config.max_length, ends)
        answer = Answer(input_ids, sampler, ends, longest, also_stops=others, guess=guess)
        return _one_row_steps(model, answer, generation_config.max_length, is_told, None if owns_cache else cache)
    if lookup_tokens:
        raise UnsupportedError(
            "prompt lookup tries several tokens of one prompt in a growing cache: leave out prompt_lookup_num_tokens "
            "for batches and padded prompts, with masks or positions of your own, and with other caches"
        )
    return _batch_steps(model, input_ids, sampler, stopping_criteria, generation_config, model_kwargs)


def _limits(criteria: StoppingCriteriaList) -> tuple[set[int], int | float, Callable[[Tensor, Tensor], bool] | None]:
    """Return end tokens, longest length, and what else stops a single row; the first two need no tensors."""
    ends: set[int] = set()
    longest, others = math.inf, StoppingCriteriaList()
    for criterion in criteria:
        if type(criterion) is EosTokenCriteria:
            ends.update(criterion.eos_token_id.tolist())
        elif type(criterion) is MaxLengthCriteria:
            longest = min(longest, criterion.max_length)
        else:
            others.append(criterion)
    return ends, longest, (lambda ids, scores: bool(others(ids, scores).all())) if others else None


def _one_row_steps(
    model: Any, answer: Answer, length: int, is_told_of_padding: bool, cache: Cache | None
) -> Iterator[Step]:
    def positions(input_ids: Tensor) -> Tensor:
        all_text = torch.ones_like(input_ids) if is_told_of_padding else None
        return derive_position_ids(model.config, input_ids, all_text, length)

    mask = torch.ones_like(answer.ids) if is_told_of_padding else None
    moving = model.config.mask_token_priority
    for _ in write_answer(DecodingBatch(model), answer, positions, mask, moving_tokens=moving, cache=cache):
        yield answer.ids, answer.finished


@torch.no_grad()
def _batch_steps(
    model: Any,
    input_ids: Tensor,
    sampler: Sampler,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    model_kwargs: dict[str, Any],
) -> Iterator[Step]:
    """Any batch and any cache, prepared step by step as ``generate`` does."""
    pad_token_id: int | None = generation_config.pad_token_id
    unfinished = torch.ones_like(input_ids[:, 0])
    outputs = model._prefill(input_ids, generation_config, model_kwargs)
    while True:
        next_tokens, scores = sampler(input_ids, outputs.logits[:, -1])
        if len(input_ids) > 1 and pad_token_id is not None:
            next_tokens = torch.where(unfinished.bool(), next_tokens, pad_token_id)
        input_ids = torch.cat([input_ids, next_tokens[:, None]], dim=-1)
        unfinished = unfinished & ~stopping_criteria(input_ids, scores)
        finished = not bool(unfinished.any())
        yield input_ids, finished
        if finished:
            return
        model_kwargs.update(model._update_model_kwargs_for_generation(outputs, dict(model_kwargs)))
        step = 1 if model_kwargs["use_cache"] else None
        outputs = model(**model.prepare_inputs_for_generation(input_ids, next_sequence_length=step, **model_kwargs))
