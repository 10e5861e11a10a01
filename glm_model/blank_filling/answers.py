"""Writes the answers of a model to one blank, with a strategy that chooses tokens in the common decoding loop.

This file handles ids, not text. Mask and positions of a blank follow from the length of its prompt and the index of its
mask token, as in the original's ``get_masks_and_position_ids``, and never from tokens that the model writes.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from ..errors import GLMError
from ..generation.alone import run
from ..generation.answer import Answer, AnswerRow
from ..generation.requests import Insert, Step, Writer
from ..generation.row_sampling import RowSampler
from ..generation.sampling import Chooser
from ..model import positions
from ..model.configuration import GLMConfig
from ..model.decoder import GLMForCausalLM
from ..options import FillOptions, FinishReason, is_greedy
from .beam_search import Beam, BeamSearch
from .sampling import SATSamplingProcessor, draw

T = TypeVar("T")


@dataclass(frozen=True)
class Continuation:
    """The tokens that a model puts into a blank.

    Args:
        token_ids: the ids without the end token.
        score: a beam's log-probability after the length penalty; None for sampling.
        finish_reason: "stop" (the model ended the answer), "length" or "cancelled".
    """

    token_ids: tuple[int, ...]
    score: float | None
    finish_reason: FinishReason


AnswerWriter = Writer[tuple[int, ...], list[Continuation]]


def answer_blank(
    model: GLMForCausalLM,
    prompt: list[int],
    blank: int,
    options: FillOptions,
    generator: torch.Generator | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Continuation]:
    """Return the answers to one blank, best first: ``options.num_beams`` by beam search, one by sampling.

    Args:
        model: the model, in evaluation mode.
        prompt: ids of the text with its mask tokens, then ``<sop>``; fewer than ``options.max_length``.
        blank: index in ``prompt`` of the mask token to answer.
        options: strategy and its settings.
        generator: source of randomness; None is torch's own.
        should_stop: called after every token; True ends the answer.

    Raises:
        GLMError: the model's scores are not finite.
        ValueError: beam search needs more candidates than the vocabulary has tokens.
    """
    chooser = published_chooser(options, generator)
    return result_of(run(model, write_blank(model, prompt, blank, options, chooser, generator, should_stop)))


def write_blank(
    model: GLMForCausalLM,
    prompt: list[int],
    blank: int,
    options: FillOptions,
    chooser: Chooser,
    generator: torch.Generator | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> AnswerWriter:
    """Write the ids of the best answer so far after each token; return what :func:`answer_blank` returns.

    Args:
        chooser: chooses the tokens of sampling.
        generator: draws the beams of a search; None is torch's own.
    """
    assert len(prompt) < options.max_length
    read = BlankPrompt(model, prompt, blank, options.max_length)
    if options.strategy == "beam_search":
        return (yield from _search(read, options, generator, should_stop))
    return (yield from _sample(read, options, chooser, should_stop))


def seeded(options: FillOptions, device: torch.device) -> torch.Generator | None:
    """Return a source of randomness with the seed of options; None, which is torch's own, without a seed."""
    return None if options.seed is None else torch.Generator(device).manual_seed(options.seed)


def result_of(steps: Generator[object, None, T]) -> T:
    """Run a generator to its end and return its return value."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def prompt_mask(length: int) -> Tensor:
    """Return the mask of a prompt, bool [1, 1, length, length], True = masked.

    Every token sees the context; ``<sop>``, the last token, is seen by itself only.
    """
    masked = torch.zeros(1, 1, length, length, dtype=torch.bool)
    masked[..., :-1, -1] = True
    return masked


def blank_position_ids(config: GLMConfig, prompt_length: int, blank: int, kind: int, length: int) -> Tensor:
    """Return the positions of a prompt and its answer, LongTensor [1, length], or [1, 2, length] if positions are 2-D.

    Args:
        config: the model's configuration.
        prompt_length: tokens of the prompt, ``<sop>`` included.
        blank: index of the mask token.
        kind: id of the mask token; after [gMASK] 1-D positions continue to count, otherwise they stay at the mask.
        length: tokens of prompt and answer.
    """
    padding, context, place = torch.tensor([[0], [prompt_length - 1], [blank]])
    if config.position_encoding_2d:
        return positions.block_position_ids(padding, context, place, length)
    counts_on = torch.tensor([kind == config.gmask_token_id])
    return positions.sequence_position_ids(padding, context, place, counts_on, length)


class BlankPrompt:
    """A prompt with the blank to answer, as tensors on the model's device.

    Args:
        model: the model that answers.
        prompt: ids of the prompt, the last one ``<sop>``.
        blank: index in ``prompt`` of the mask token to answer.
        longest: largest number of tokens of prompt and answer.

    Attributes:
        model: the model that answers.
        ids: LongTensor [1, length].
        mask: bool [1, 1, length, length], True = masked.
        position_ids: positions of prompt and answer, LongTensor [1, 2, longest] or [1, longest].
    """

    def __init__(self, model: GLMForCausalLM, prompt: list[int], blank: int, longest: int) -> None:
        self.model = model
        self.ids = torch.tensor([prompt], device=model.device)
        self.mask = prompt_mask(len(prompt)).to(model.device)
        places = blank_position_ids(model.config, len(prompt), blank, prompt[blank], longest)
        self.position_ids = places.to(model.device)

    def __len__(self) -> int:
        return self.ids.shape[1]


def _require_finite(logits: Tensor) -> Tensor:
    """Return the logits. Raise GLMError unless all are finite."""
    if not torch.isfinite(logits).all():
        raise GLMError(
            f"the model's scores are not finite in {str(logits.dtype).removeprefix('torch.')}: load it in float32 or "
            "bfloat16, or check its weights"
        )
    return logits


def _sample(
    prompt: BlankPrompt, options: FillOptions, chooser: Chooser, should_stop: Callable[[], bool]
) -> AnswerWriter:
    ends = prompt.model.config.end_token_ids
    answer = Answer(prompt.ids, chooser, ends, options.max_length)
    row = AnswerRow(answer, len(prompt) - 1, lambda ids: prompt.position_ids, prompt.mask)
    written: list[int] = []
    try:
        while True:
            (token,) = yield from row.next_tokens()
            if token in ends:
                return [Continuation(tuple(written), None, "stop")]
            written.append(token)
            if answer.finished or should_stop():
                return [Continuation(tuple(written), None, "length" if answer.finished else "cancelled")]
            yield tuple(written)
    finally:
        row.leave()


def published_chooser(options: FillOptions, generator: torch.Generator | None) -> Chooser:
    """Return the chooser of GLM-130B's BaseStrategy."""
    filter_scores = None
    if not is_greedy(options.temperature):
        filter_scores = SATSamplingProcessor(options.temperature, options.top_k, options.top_p)

    def choose(input_ids: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        scores = _require_finite(logits).float()
        if filter_scores is None:
            return scores.argmax(dim=-1), scores
        scores = filter_scores(None, scores)
        return draw(scores, 1, generator).squeeze(-1), scores

    return choose


def fill_sampler(options: FillOptions) -> RowSampler:
    """Return a chooser by the same rules that chooses together with other rows."""
    return RowSampler(options.temperature, options.top_k, options.top_p or 1.0, options.seed)


def _search(
    prompt: BlankPrompt,
    options: FillOptions,
    generator: torch.Generator | None,
    should_stop: Callable[[], bool],
) -> AnswerWriter:
    search = BeamSearch(
        prompt.ids[0].tolist(),
        options.num_beams,
        prompt.model.config.end_token_ids,
        length_penalty=options.length_penalty,
        no_repeat_ngram_size=options.no_repeat_ngram_size,
        min_gen_length=options.min_gen_length,
        deterministic=options.deterministic,
        generator=generator,
    )
    reason = yield from write_beams(prompt, search, options.max_length, should_stop)
    return [
        Continuation(_answer_ids(beam, len(prompt)), beam.score, "stop" if beam.ended else reason or "length")
        for beam in search.beams()
    ]


def write_beams(
    prompt: BlankPrompt, search: BeamSearch, longest: int, should_stop: Callable[[], bool] = lambda: False
) -> Writer[tuple[int, ...], Literal["length", "cancelled"] | None]:
    """Run a beam search until it is done; yield the best answer's ids after each step, and return why it was cut.

    Args:
        prompt: the prompt that every beam starts with.
        search: the state of the search; each step advances it.
        longest: largest number of tokens of prompt and answer.
        should_stop: called after every step; True interrupts the search.
    """
    insert = Insert(*(prompt.ids, len(prompt) - 1, prompt.position_ids), attention_mask=prompt.mask, may_take_back=True)
    try:
        parents, tokens = search.advance(_require_finite((yield insert)[:, -1]))
        rows = insert.rows
        while True:
            reason = _interruption(search.length, longest, should_stop)
            if search.is_done or reason:
                return reason
            yield _answer_ids(search.beams()[0], len(prompt))
            if parents != list(range(len(rows))):
                rows.select(parents)
            logits = yield Step(rows, [[token] for token in tokens])
            parents, tokens = search.advance(_require_finite(logits[:, -1]))
    finally:
        insert.leave()


def _answer_ids(beam: Beam, prompt_length: int) -> tuple[int, ...]:
    """Return the ids of a beam without its prompt and its end token."""
    return tuple(beam.token_ids[prompt_length : -1 if beam.ended else None])


def _interruption(length: int, longest: int, should_stop: Callable[[], bool]) -> Literal["length", "cancelled"] | None:
    if length >= longest:
        return "length"
    return "cancelled" if should_stop() else None
