"""Choosing a token: logits processors, then the likeliest token or one that is drawn."""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.generation import (
    LogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..options import SamplingOptions, is_greedy


class Chooser(Protocol):
    """Chooses the next token of every row."""

    def __call__(self, input_ids: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens [rows], and the scores [rows, vocab] that they were chosen by.

        Args:
            input_ids: all ids so far, LongTensor [rows, length].
            logits: of the next token, floating [rows, vocab].
        """


class InvalidScoreLogitsProcessor(LogitsProcessor):
    """The original's guard: if any score of the batch is NaN or infinite, every row chooses ``token_id``."""

    def __init__(self, token_id: int = 5) -> None:
        self.token_id = token_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        # A sum is finite only if all are, and costs a fraction; if it is not, it may have overflowed.
        if not math.isfinite(float(scores.sum())) and not torch.isfinite(scores).all():
            scores = torch.zeros_like(scores)
            scores[..., self.token_id] = 5e4
        return scores


class Sampler:
    """Chooses by processed scores in float32: draws a token, or takes the likeliest.

    Args:
        processors: applied to the scores one after the other.
        draws: whether to draw; False takes the likeliest token.
        generator: source of randomness; None is torch's own.
    """

    def __init__(
        self, processors: Sequence[LogitsProcessor], draws: bool, generator: torch.Generator | None = None
    ) -> None:
        self._processors = list(processors)
        self._draws = draws
        self._generator = generator

    def __call__(self, input_ids: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens and scores; see :class:`Chooser`."""
        scores = logits.to(copy=True, dtype=torch.float32)
        for processor in self._processors:  # the list's own call inspects every signature at every token
            scores = processor(input_ids, scores)
        if not self._draws:
            return scores.argmax(dim=-1), scores
        return torch.multinomial(F.softmax(scores, dim=-1), 1, generator=self._generator).squeeze(1), scores


def warpers(temperature: float, top_k: int, top_p: float) -> list[LogitsProcessor]:
    """Return what narrows scores down before a token is drawn, in the order of ``generate``: temperature, top-k, top-p.

    Args:
        temperature: above 0.
        top_k: keep so many tokens; 0 keeps all.
        top_p: keep the likeliest tokens until their probability reaches this; 1 keeps all.
    """
    made: list[LogitsProcessor] = []
    if temperature != 1.0:
        made.append(TemperatureLogitsWarper(temperature))
    if top_k:
        made.append(TopKLogitsWarper(top_k=top_k))
    if top_p < 1.0:
        made.append(TopPLogitsWarper(top_p=top_p))
    return made


def chat_sampler(options: SamplingOptions, device: torch.device) -> Sampler:
    """Return what chooses the tokens of a chat as ``chat`` does: the published guard, then what ``options`` say."""
    processors: list[LogitsProcessor] = [InvalidScoreLogitsProcessor()]
    if is_greedy(options.temperature):
        return Sampler(processors, draws=False)
    processors += warpers(options.temperature, options.top_k, options.top_p)
    generator = None if options.seed is None else torch.Generator(device).manual_seed(options.seed)
    return Sampler(processors, draws=True, generator=generator)
