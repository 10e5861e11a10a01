"""Answers of a model to prompts, a batch at a time, up to an end token or a text that ends them.

As ``GenerationTask`` of GLM-130B's ``evaluation/tasks.py`` without its beam search: greedy unless told otherwise, ended
by the model's own end tokens or by those of the task.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from ..blank_filling.answers import end_tokens
from ..model.decoder import GLMForCausalLM
from .scoring import pad_left


class TextDecoder(Protocol):
    """What is needed of a tokenizer."""

    def decode_exact(self, token_ids: Sequence[int]) -> str:
        """The text of ids, without clean-up."""


def write(
    model: GLMForCausalLM,
    tokenizer: TextDecoder,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    stops: Sequence[str] = (),
    **settings: Any,
) -> list[str]:
    """The answers to one batch of prompts.

    Args:
        prompts: ids up to and with ``<sop>``, or with the begin of the answer behind it.
        new_tokens: the most that an answer may have.
        stops: texts before the first of which an answer ends.
        settings: more arguments of ``generate``; greedy without any.
    """
    ids, mask = (tensor.to(model.device) for tensor in pad_left(prompts, model.config.pad_token_id))
    stops = [stop for stop in stops if stop]
    output = model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=new_tokens,
        stopping_criteria=StoppingCriteriaList([_StopTexts(tokenizer, ids.shape[1], stops)] if stops else []),
        **{"do_sample": False, **settings},
    )
    ends = end_tokens(model.config)
    answers = [_before_any(row, ends) for row in output[:, ids.shape[1] :].tolist()]
    return [_before_text(tokenizer.decode_exact(answer), stops) for answer in answers]


class _StopTexts(StoppingCriteria):
    """A row is done once its answer holds one of the texts."""

    def __init__(self, tokenizer: TextDecoder, prompt_length: int, stops: Sequence[str]) -> None:
        self._tokenizer, self._prompt_length, self._stops = tokenizer, prompt_length, stops

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        texts = map(self._tokenizer.decode_exact, input_ids[:, self._prompt_length :].tolist())
        return torch.tensor([any(stop in text for stop in self._stops) for text in texts], device=input_ids.device)


def _before_any(ids: list[int], ends: Sequence[int]) -> list[int]:
    return ids[: next((index for index, token_id in enumerate(ids) if token_id in ends), len(ids))]


def _before_text(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.partition(stop)[0]
    return text
