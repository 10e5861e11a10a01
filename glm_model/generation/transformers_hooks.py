"""Adapt transformers' ``generate`` to models whose prompt is bidirectional.

The masks and positions of a step are derived from all ids so far, or extended from those given for the prompt. Features
that a prefix-LM cannot support are refused here: prefill in chunks, continuous batching by a causal scheduler, and
continuing from a cached part of a context. Within this package only the published ``chat`` and ``stream_generate``,
which take all arguments of ``generate``, use this module; everything else decodes with ``answer`` and ``passes``.
"""

import math
from collections.abc import Callable, Iterator, Mapping
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
from transformers.modeling_outputs import CausalLMOutputWithPast

from ..errors import UnsupportedError
from ..model import masking
from ..model.kv_cache import new_cache
from ..model.positions import count_padding, derive_position_ids, extend_position_ids
from ..model.transformers_names import CACHE, OLD_CACHE, one_cache
from .alone import run
from .answer import Answer, AnswerRow, make_guesser
from .requests import Writer
from .sampling import Sampler


def _as_wide_as(cache: Cache, mask: Tensor) -> Tensor:
    """Return a bool mask (True = masked) extended with masked columns to the width of a static cache.

    With a constant shape a compiled step is compiled once.
    """
    width, _ = cache.get_mask_sizes(mask.shape[-2], 0)
    return F.pad(mask, (0, width - mask.shape[-1]), value=True).clone(memory_format=torch.contiguous_format)


class PrefixLMGeneration(GenerationMixin):
    """Overrides of methods of ``generate`` for a bidirectional prompt."""

    @classmethod
    def can_generate(cls) -> bool:
        """Return True, because transformers only looks for its own mixin among the direct bases of a class."""
        return True

    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Any:
        """Generate as transformers does.

        ``attention_mask`` may also be the 4-D mask of the published tokenizer (bool, True = masked).

        Raises:
            UnsupportedError: a setting needs a prompt without a blank, or a causal one.
        """
        _refuse_settings(kwargs, kwargs.get("generation_config") or self.generation_config)
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.ndim == 4:
            kwargs["prompt_mask"] = kwargs.pop("attention_mask")
        elif mask is not None:
            # transformers drops a mask of ones. The pad id at the start of a text would then be taken for padding.
            kwargs["prompt_padding"] = masking.padding_from_mask(mask)
        if kwargs.get("position_ids") is not None:
            # Passed under a name that transformers does not know: it would continue them by the rules of a causal
            # model, and takes three-dimensional positions for those of a multimodal model, [3, batch, length].
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
        **kwargs: object,
    ) -> dict[str, object]:
        """Return the inputs of one forward pass.

        Args:
            input_ids: all ids so far, LongTensor [batch, length].
            next_sequence_length: the number of ids at the end to compute; None computes all.
            cache: the cache of the tokens before.
            attention_mask: 0/1 [batch, length], 0 for padding.
            position_ids: positions of the prompt; None derives them.
            prompt_mask: the 4-D mask of the prompt that was given to :meth:`generate`.
            prompt_position_ids: the positions of the prompt that were given to :meth:`generate`.
            prompt_padding: the number of padding tokens in front of each prompt, [batch].
            is_first_iteration: whether the prompt is computed in this pass.
            past_key_values: the name of ``cache`` in transformers before 5.24.
            kwargs: further arguments of transformers' method.

        Raises:
            UnsupportedError: the cache holds a part of the context only.
        """
        cache = one_cache(cache, past_key_values)
        for name in _TOKENIZERS:
            kwargs.pop(name, None)
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
        """Return the 4-D mask of all ids so far, which a compiled step cannot derive from their values."""
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
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: object, **kwargs: object
    ) -> None:
        usual = generation_config.cache_implementation in (None, "dynamic") and generation_config.use_cache
        if usual and model_kwargs.get(CACHE) is None:
            model_kwargs[CACHE] = new_cache(self.device, self.runtime.cache_dtype)
            return
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)

    def _prepare_position_ids_for_generation(self, *args: object, **kwargs: object) -> None:
        # `prepare_inputs_for_generation` derives them from all ids at every step.
        return None

    def _prepare_attention_mask_for_generation(
        self, inputs_tensor: Tensor, generation_config: GenerationConfig, model_kwargs: dict[str, Any]
    ) -> Tensor:
        # Only pad ids in front are padding; the same id inside a prompt is text, as in the original.
        input_ids = model_kwargs.get("input_ids", inputs_tensor)
        padding = masking.left_padding(input_ids, self.config.pad_token_id)
        return masking.mask_from_padding(padding, input_ids.shape[1])

    def _prefill(
        self, input_ids: Tensor, generation_config: GenerationConfig, *args: object, **kwargs: object
    ) -> CausalLMOutputWithPast:
        _refuse_chunks(generation_config)
        outputs: CausalLMOutputWithPast = super()._prefill(input_ids, generation_config, *args, **kwargs)
        return outputs

    def init_continuous_batching(self, *args: object, **kwargs: object) -> NoReturn:
        """Raise UnsupportedError: the scheduler splits prompts and shares prefixes, which needs causal attention."""
        raise UnsupportedError(
            "continuous batching prefills prompts in causal chunks, which a bidirectional context does not allow; "
            "use generate() on a left-padded batch."
        )


_TOKENIZERS = ("tokenizer", "assistant_tokenizer")
"""Arguments of ``generate``, for stop_strings and the like, which it passes on to the forward pass of every model."""

_NEGATIVE_PROMPT = "classifier-free guidance needs a second prompt, of which transformers drops the blank and <sop>"
_REFUSED_SETTINGS: dict[str, tuple[tuple[object, ...], str]] = {
    "guidance_scale": ((None, 1), _NEGATIVE_PROMPT),
    "negative_prompt_ids": ((None,), _NEGATIVE_PROMPT),
    "negative_prompt_attention_mask": ((None,), _NEGATIVE_PROMPT),
    "token_healing": ((None, False), "it would take away the end of the prompt, which is always [gMASK] <sop>"),
}
"""Settings of ``generate`` that GLM cannot follow: the values that ask for nothing, and the reason."""


def _refuse_settings(arguments: Mapping[str, Any], generation_config: GenerationConfig) -> None:
    for name, (harmless, reason) in _REFUSED_SETTINGS.items():
        value = arguments.get(name, getattr(generation_config, name, None))
        if isinstance(value, Tensor) or value not in harmless:
            shown = "" if isinstance(value, Tensor) else f"={value!r}"
            raise UnsupportedError(f"{name}{shown}: {reason}. Leave it out.")


def _refuse_chunks(generation_config: GenerationConfig) -> None:
    if generation_config.prefill_chunk_size is not None:
        raise UnsupportedError(
            f"prefill_chunk_size={generation_config.prefill_chunk_size}: a bidirectional context cannot be "
            "prefilled in chunks; leave it unset."
        )


Step = tuple[Tensor, bool]
"""All ids so far, [batch, length], and whether the newest token is the last one."""


def generate_steps(
    model: GenerationMixin,
    input_ids: Tensor,
    generator: torch.Generator | None = None,
    prompt_lookup_num_tokens: int = 0,
    **kwargs: Any,
) -> Iterator[Step]:
    """Yield a :data:`Step` after every token.

    A prompt of ``max_length`` tokens or more yields nothing, unless ``max_new_tokens`` is given. ``generate`` prepares
    processors, stopping criteria, cache and padding. A single unpadded prompt in a growing cache is then decoded by
    this package's own loop; everything else is decoded step by step as in ``generate``.

    Args:
        model: a GLM for causal language modelling with the methods of ``generate``.
        input_ids: prompts, LongTensor [batch, length].
        generator: source of randomness for sampling; None is torch's default generator.
        prompt_lookup_num_tokens: the most tokens to guess in each step by prompt lookup, as in ``generate``; it does
            not change the result. 0 guesses none.
        kwargs: arguments of ``generate``, except those of beam search.

    Raises:
        UnsupportedError: prompt lookup for a batch, a padded prompt, given masks or positions, or another cache.
    """
    by_config = getattr(kwargs.get("generation_config"), "max_new_tokens", None)
    counts_new_tokens = kwargs.get("max_new_tokens", by_config) is not None
    max_length = None if counts_new_tokens else kwargs.get("max_length")
    if max_length is not None and input_ids.shape[1] >= max_length:
        return iter(())
    loop = partial(
        _decoding_loop,
        generator=generator,
        lookup_tokens=prompt_lookup_num_tokens or 0,
        owns_cache=kwargs.get("cache") is None and kwargs.get(OLD_CACHE) is None,
    )
    steps: Iterator[Step] = model.generate(input_ids, custom_generate=loop, **kwargs)
    return steps


def _decoding_loop(
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
    """Yield a :data:`Step` after every token; this is the ``custom_generate`` that transformers calls.

    All arguments are those of transformers' protocol, except for ``generator``, ``lookup_tokens`` and ``owns_cache``
    (whether the cache was made for this call), which :func:`generate_steps` adds.
    """
    sampler = Sampler(logits_processor, bool(generation_config.do_sample), generator)
    cache, mask = model_kwargs.get(CACHE), model_kwargs.get("attention_mask")
    # A mask of ones hides nothing; newer releases of transformers drop it themselves.
    shown = mask is None or bool(mask.all())
    given = any(model_kwargs.get(name) is not None for name in ("prompt_mask", "prompt_position_ids"))
    if len(input_ids) == 1 and cache is not None and not cache.is_compileable and shown and not given:
        _refuse_chunks(generation_config)
        model._refuse_partial_context(input_ids, cache)
        is_told = model_kwargs.get("prompt_padding") is not None  # and if so that there is none
        ends, longest, others = _limits(stopping_criteria)
        guess = make_guesser(lookup_tokens, generation_config.max_length, ends)
        answer = Answer(input_ids, sampler, ends, longest, also_stops=others, guess=guess)
        given_cache = None if owns_cache else cache
        return run(model, _write_one_row(model, answer, generation_config.max_length, is_told, given_cache))
    if lookup_tokens:
        raise UnsupportedError(
            "prompt lookup tries several tokens of one prompt in a growing cache: leave out prompt_lookup_num_tokens "
            "for batches and padded prompts, with masks or positions of your own, and with other caches"
        )
    return _batch_steps(model, input_ids, sampler, stopping_criteria, generation_config, model_kwargs)


def _limits(criteria: StoppingCriteriaList) -> tuple[set[int], int | float, Callable[[Tensor, Tensor], bool] | None]:
    """Return the end tokens, the longest length, and a function for all other stopping criteria of a single row.

    The first two can be checked without tensors. The function is None if there are no other criteria.
    """
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


def _write_one_row(
    model: Any, answer: Answer, length: int, is_told_of_padding: bool, cache: Cache | None
) -> Writer[Step, None]:
    def positions(input_ids: Tensor) -> Tensor:
        all_text = torch.ones_like(input_ids) if is_told_of_padding else None
        return derive_position_ids(model.config, input_ids, all_text, length)

    mask = torch.ones_like(answer.ids) if is_told_of_padding else None
    context = int(masking.context_length(answer.ids, model.config.bos_token_id))
    moving = model.config.mask_token_priority
    row = AnswerRow(answer, context, positions, mask, moving_tokens=moving, cache=cache)
    try:
        while not answer.finished:
            before = answer.ids
            tokens = yield from row.next_tokens()
            for count in range(1, len(tokens) + 1):
                ids = torch.cat([before, before.new_tensor([tokens[:count]])], dim=-1)
                yield ids, answer.finished and count == len(tokens)
    finally:
        row.leave()


@torch.no_grad()
def _batch_steps(
    model: Any,
    input_ids: Tensor,
    sampler: Sampler,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    model_kwargs: dict[str, Any],
) -> Iterator[Step]:
    """Yield a :data:`Step` after every token of any batch with any cache; inputs are prepared as in ``generate``."""
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
