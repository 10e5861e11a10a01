"""Choose a token: apply logits processors, then take the likeliest token or sample one."""

import logging
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

from ..errors import GLMError
from ..options import SamplingOptions, is_greedy

logger = logging.getLogger(__name__)


class Chooser(Protocol):
    """A function that chooses the next token of every row."""

    def __call__(self, input_ids: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens [rows], and the processed scores [rows, vocab] that they were chosen by.

        Args:
            input_ids: all ids so far, LongTensor [rows, length].
            logits: logits of the next token, floating [rows, vocab].
        """


NOT_FINITE = (
    "the model's scores are NaN or infinite, so there is nothing to choose by. In float16 its activations overflow: "
    "load it in bfloat16 or float32 (--dtype), or check its weights."
)


def finite_rows(scores: Tensor) -> list[bool]:
    """Return for each row of scores [rows, vocab] whether all of them are finite."""
    # The sum is finite only if all scores are, and is much cheaper to test. A sum that is not finite may have
    # overflowed, so the scores themselves are tested then.
    sums = scores.sum(dim=-1).tolist()
    if all(map(math.isfinite, sums)):
        return [True] * len(sums)
    finite: list[bool] = torch.isfinite(scores).all(dim=-1).tolist()
    return finite


class InvalidScoreLogitsProcessor(LogitsProcessor):
    """The original's protection: if any score of the batch is NaN or infinite, every row chooses ``token_id``.

    A chat then goes on to its greatest length without a word, so the first time is logged as a warning.
    """

    def __init__(self, token_id: int = 5) -> None:
        self.token_id = token_id
        self._has_warned = False

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not all(finite_rows(scores)):
            if not self._has_warned:
                logger.warning(NOT_FINITE)
                self._has_warned = True
            scores = torch.zeros_like(scores)
            scores[..., self.token_id] = 5e4
        return scores


class FiniteScoreLogitsProcessor(LogitsProcessor):
    """Ends an answer with a GLMError, which front-ends show, if any score is NaN or infinite."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not all(finite_rows(scores)):
            raise GLMError(NOT_FINITE)
        return scores


class Sampler:
    """A :class:`Chooser` that processes the scores in float32 and samples a token, or takes the likeliest.

    Args:
        processors: processors to apply to the scores, in this order.
        draws: whether to sample; False takes the likeliest token.
        generator: source of randomness; None is torch's default generator.
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
        # Not by calling a LogitsProcessorList, which inspects the signature of every processor at every token.
        for processor in self._processors:
            scores = processor(input_ids, scores)
        if not self._draws:
            return scores.argmax(dim=-1), scores
        return torch.multinomial(F.softmax(scores, dim=-1), 1, generator=self._generator).squeeze(1), scores


def warpers(temperature: float, top_k: int, top_p: float) -> list[LogitsProcessor]:
    """Return the processors that reshape the scores before sampling, in the order of ``generate``.

    Args:
        temperature: divides the scores, above 0; 1 leaves them as they are.
        top_k: the number of tokens to keep; 0 keeps all.
        top_p: the likeliest tokens are kept until their probabilities add up to this; 1 keeps all.
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
    """Return the sampler of a chat's tokens, which chooses as the published ``chat`` does with the same options.

    It raises GLMError for scores that are NaN or infinite, where ``chat`` goes on with a token that means nothing.

    Args:
        options: the options of sampling.
        device: the device of the logits.
    """
    processors: list[LogitsProcessor] = [FiniteScoreLogitsProcessor()]
    if is_greedy(options.temperature):
        return Sampler(processors, draws=False)
    processors += warpers(options.temperature, options.top_k, options.top_p)
    generator = None if options.seed is None else torch.Generator(device).manual_seed(options.seed)
    return Sampler(processors, draws=True, generator=generator)
