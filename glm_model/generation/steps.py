"""The decoding loop of ``generate`` as an iterator, one token at a time; for everybody who streams.

What ``generate`` prepares (processors, stopping criteria, cache, padding) is prepared by it. An unpadded prompt in a
growing cache, the usual case, has a loop of its own: a step of a small model costs about as much as preparing it the
general way, and several tokens may be tried in a step there (prompt lookup).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import GenerationConfig
from transformers.cache_utils import Cache
from transformers.generation import (
    EosTokenCriteria,
    LogitsProcessorList,
    MaxLengthCriteria,
    PromptLookupCandidateGenerator,
    StoppingCriteriaList,
)

from ..errors import UnsupportedError
from .cuda_graphs import GraphedSteps, can_be_graphed

Step = tuple[Tensor, bool]
"""All ids so far, [batch, length], and whether the newest token is the last one."""


def generate_steps(
    model: Any,
    input_ids: Tensor,
    generator: torch.Generator | None = None,
    prompt_lookup_num_tokens: int = 0,
    **kwargs: Any,
) -> Iterator[Step]:
    """A :data:`Step` after every token. A prompt that is ``max_length`` long, where that counts, yields nothing.

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
        owns_cache=kwargs.get("past_key_values") is None,
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
    """transformers' ``custom_generate`` interface, with three arguments more."""
    choose = _chooser(logits_processor, generation_config, generator)
    common = (model, input_ids, choose, stopping_criteria, generation_config, model_kwargs)
    cache, mask = model_kwargs.get("past_key_values"), model_kwargs.get("attention_mask")
    # A mask of ones hides nothing; newer releases of transformers leave it out themselves.
    shown = mask is None or bool(mask.all())
    given = any(model_kwargs.get(name) is not None for name in ("prompt_mask", "prompt_position_ids"))
    if len(input_ids) == 1 and cache is not None and not cache.is_compileable and shown and not given:
        graphed = owns_cache and not lookup_tokens and can_be_graphed(model, cache)
        return _one_row_steps(*common, _guesser(lookup_tokens, generation_config), owns_cache, graphed)
    if lookup_tokens:
        raise UnsupportedError(
            "prompt lookup tries several tokens of one prompt in a growing cache: leave out prompt_lookup_num_tokens "
            "for batches and padded prompts, with masks or positions of your own, and with other caches"
        )
    return _batch_steps(*common)


Chooser = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From ids [batch, length] and logits [batch, vocab]: the next tokens [batch], and the scores they were chosen by."""


def _chooser(
    logits_processor: LogitsProcessorList, generation_config: GenerationConfig, generator: torch.Generator | None
) -> Chooser:
    def choose(input_ids: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        scores = logits.to(copy=True, dtype=torch.float32)
        for processor in logits_processor:  # the list's own call inspects every signature at every token
            scores = processor(input_ids, scores)
        if not generation_config.do_sample:
            return scores.argmax(dim=-1), scores
        return torch.multinomial(F.softmax(scores, dim=-1), 1, generator=generator).squeeze(1), scores

    return choose


@torch.no_grad()
def _one_row_steps(
    model: Any,
    input_ids: Tensor,
    choose: Chooser,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    model_kwargs: dict[str, Any],
    guess: Callable[[Tensor], list[int]],
    owns_cache: bool,
    graphed: bool,
) -> Iterator[Step]:
    """One unpadded prompt. A step computes the newest token and guesses of what follows; wrong guesses are undone."""
    cache, length = model_kwargs["past_key_values"], generation_config.max_length
    stops = _one_row_stop(stopping_criteria)
    # What it makes cannot be changed in place by others, so not for a cache that its owner will use again.
    quickly = torch.inference_mode if owns_cache else nullcontext
    logits = model._prefill(input_ids, generation_config, model_kwargs).logits[:, -1:]
    is_told = model_kwargs.get("prompt_padding") is not None  # and if so that there is none
    all_text = torch.ones_like(input_ids) if is_told else None
    position_ids = model.derive_position_ids(input_ids, all_text, length)
    forward = GraphedSteps(model, cache, length) if graphed else partial(_logits, model, cache)
    guesses: list[int] = []
    while True:
        for place in range(len(guesses) + 1):
            tokens, scores = choose(input_ids, logits[:, place])
            token = int(tokens)
            input_ids = torch.cat([input_ids, tokens[:, None]], dim=-1)
            if token in model.config.mask_token_priority:  # may have moved the blank
                position_ids = model.derive_position_ids(input_ids, all_text, length)
            finished = stops(input_ids, scores, token)
            yield input_ids, finished
            if finished or [token] != guesses[place : place + 1]:
                break
        if wrong := len(guesses) - place:
            cache.crop(-wrong)
        if finished:
            return
        # A quotation brings no mask token that is not there already, so it moves no blank.
        guesses = guess(input_ids)
        inputs = torch.cat([input_ids[:, -1:], input_ids.new_tensor([guesses])], dim=-1) if guesses else tokens[:, None]
        place = input_ids.shape[1] - 1
        positions = position_ids[..., place : place + inputs.shape[1]]
        with quickly():
            logits = forward(inputs, positions)


def _logits(model: Any, cache: Cache, tokens: Tensor, position_ids: Tensor) -> Tensor:
    logits: Tensor = model(tokens, position_ids=position_ids, past_key_values=cache, use_cache=True).logits
    return logits


def _one_row_stop(criteria: StoppingCriteriaList) -> Callable[[Tensor, Tensor, int], bool]:
    """The criteria for one row whose newest token is known; transformers' own two do without tensors."""
    ends: set[int] = set()
    limit, others = math.inf, StoppingCriteriaList()
    for criterion in criteria:
        if type(criterion) is EosTokenCriteria:
            ends.update(criterion.eos_token_id.tolist())
        elif type(criterion) is MaxLengthCriteria:
            limit = min(limit, criterion.max_length)
        else:
            others.append(criterion)

    def stops(input_ids: Tensor, scores: Tensor, token: int) -> bool:
        if token in ends or input_ids.shape[1] >= limit:
            return True
        return bool(others) and bool(others(input_ids, scores).all())

    return stops


def _guesser(count: int, generation_config: GenerationConfig) -> Callable[[Tensor], list[int]]:
    """What finds up to ``count`` tokens that followed, earlier in the text, where it stands now."""
    if not count:
        return lambda input_ids: []
    length = generation_config.max_length
    finder = PromptLookupCandidateGenerator(
        eos_token_id=generation_config._eos_token_tensor,
        num_output_tokens=count,
        max_matching_ngram_size=generation_config.max_matching_ngram_size or 2,  # transformers' own default
        max_length=length,
    )

    def guess(input_ids: Tensor) -> list[int]:
        candidates, _ = finder.get_candidates(input_ids)
        # A step gives one token more than it was given guesses.
        return candidates[0, input_ids.shape[1] : length - 1].tolist()

    return guess


@torch.no_grad()
def _batch_steps(
    model: Any,
    input_ids: Tensor,
    choose: Chooser,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    model_kwargs: dict[str, Any],
) -> Iterator[Step]:
    """Any batch and any cache, prepared step by step as ``generate`` does."""
    pad_token: Tensor | None = generation_config._pad_token_tensor
    unfinished = torch.ones_like(input_ids[:, 0])
    outputs = model._prefill(input_ids, generation_config, model_kwargs)
    while True:
        next_tokens, scores = choose(input_ids, outputs.logits[:, -1])
        if len(input_ids) > 1 and pad_token is not None:
            next_tokens = torch.where(unfinished.bool(), next_tokens, pad_token)
        input_ids = torch.cat([input_ids, next_tokens[:, None]], dim=-1)
        unfinished = unfinished & ~stopping_criteria(input_ids, scores)
        finished = not bool(unfinished.any())
        yield input_ids, finished
        if finished:
            return
        model_kwargs.update(model._update_model_kwargs_for_generation(outputs, dict(model_kwargs)))
        step = 1 if model_kwargs["use_cache"] else None
        outputs = model(**model.prepare_inputs_for_generation(input_ids, next_sequence_length=step, **model_kwargs))
