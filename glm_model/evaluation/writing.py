"""Writes answers to batches of prompts, up to an end token or a text that ends an answer.

The rules are those of ``GenerationTask`` in GLM-130B's ``evaluation/tasks.py``, without its beam search. Decoding is
greedy by default. The model's end tokens or a text of the task end an answer.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from transformers.generation import (
    LogitsProcessor,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from ..errors import UnsupportedError
from ..generation.passes import DecodingBatch
from ..generation.sampling import Sampler, warpers
from ..model.decoder import GLMForCausalLM
from ..model.positions import derive_position_ids
from ..options import PUBLISHED_TOP_K, is_greedy
from .scoring import pad_left

_PROCESSORS: dict[str, type[LogitsProcessor]] = {
    "repetition_penalty": RepetitionPenaltyLogitsProcessor,
    "no_repeat_ngram_size": NoRepeatNGramLogitsProcessor,
}
_SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "min_p")


class TextDecoder(Protocol):
    """The method of a tokenizer that writing needs."""

    def decode_exact(self, token_ids: Sequence[int]) -> str:
        """Return the text of ids, without cleaning up spaces."""


def write(
    model: GLMForCausalLM,
    tokenizer: TextDecoder,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    stops: Sequence[str] = (),
    **settings: Any,
) -> list[str]:
    """Return the answers to one batch of prompts.

    Args:
        prompts: ids up to and including ``<sop>``; the beginning of the answer may follow it.
        new_tokens: the largest number of tokens of an answer.
        stops: texts that end an answer; the first one and all after it are cut off.
        settings: ``do_sample``, ``temperature``, ``top_k``, ``top_p``, ``min_p``, ``repetition_penalty``,
            ``no_repeat_ngram_size``, as in ``generate``; decoding is greedy without any.

    Raises:
        UnsupportedError: a setting is none of these.
    """
    stops = [stop for stop in stops if stop]
    ends = model.config.end_token_ids

    def is_over(answer: list[int]) -> bool:
        if answer[-1] in ends or len(answer) >= new_tokens:
            return True
        return bool(stops) and any(stop in tokenizer.decode_exact(answer) for stop in stops)

    written = _write_ids(model, prompts, new_tokens, _sampler(settings), is_over)
    texts = [tokenizer.decode_exact([token for token in answer if token not in ends]) for answer in written]
    return [_before_text(text, stops) for text in texts]


def _write_ids(
    model: GLMForCausalLM,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    sampler: Sampler,
    is_over: Callable[[list[int]], bool],
) -> list[list[int]]:
    """Return the ids of each answer, its end token included; a row leaves the batch when its answer is over."""
    config = model.config
    ids, mask = (tensor.to(model.device) for tensor in pad_left(prompts, config.pad_token_id))
    longest = ids.shape[1] + new_tokens
    answers: list[list[int]] = [[] for _ in prompts]
    running = list(range(len(prompts)))
    batch = DecodingBatch(model)
    rows, logits = batch.insert(ids, derive_position_ids(config, ids, mask, longest), mask)
    while True:
        tokens, _ = sampler(ids, logits)
        ids = torch.cat([ids, tokens[:, None]], dim=-1)
        for number, token in zip(running, tokens.tolist(), strict=True):
            answers[number].append(token)
        kept = [row for row, number in enumerate(running) if not is_over(answers[number])]
        if not kept:
            batch.remove(rows)
            return answers
        if len(kept) < len(running):
            rows.select(kept)
            ids, mask, tokens = ids[kept], mask[kept], tokens[kept]
            running = [running[row] for row in kept]
        # A mask token in the answer may be the one that positions now count from.
        if any(answers[number][-1] in config.mask_token_priority for number in running):
            rows.position_ids = derive_position_ids(config, ids, mask, longest)
        logits = batch.step({rows: tokens[:, None]})[rows][:, -1]


def _sampler(settings: dict[str, Any]) -> Sampler:
    given = {name: value for name, value in settings.items() if value is not None}
    if unknown := sorted(given.keys() - {*_SAMPLING, *_PROCESSORS}):
        known = ", ".join([*_SAMPLING, *_PROCESSORS])
        raise UnsupportedError(f"{unknown[0]} is no setting of an answer here; known are {known}")
    processors = [make(given[name]) for name, make in _PROCESSORS.items() if name in given]
    temperature = given.get("temperature", 1.0)
    if not given.get("do_sample") or is_greedy(temperature):
        return Sampler(processors, draws=False)
    processors += warpers(temperature, given.get("top_k", PUBLISHED_TOP_K), given.get("top_p", 1.0))
    if "min_p" in given:
        processors.append(MinPLogitsWarper(given["min_p"]))
    return Sampler(processors, draws=True)


def _before_text(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.partition(stop)[0]
    return text
