"""The answers of a model to one blank: its forward passes, and a strategy that chooses tokens.

Knows ids, not text. Everything about a blank follows from its prompt's length and the place of its mask token, as in
the original's ``get_masks_and_position_ids``, and never from tokens that the model writes.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from ..errors import GLMError
from ..model import positions
from ..model.configuration import GLMConfig
from ..model.decoder import GLMForCausalLM
from ..options import FillOptions, is_greedy
from .beam_search import Beam, BeamSearch
from .sampling import SATSamplingProcessor, draw

FinishReason = Literal["stop", "length", "cancelled"]
T = TypeVar("T")


@dataclass(frozen=True)
class Continuation:
    """The tokens that a model puts into a blank.

    Args:
        token_ids: without the end token.
        score: a beam's penalised log-probability; None for sampling.
        finish_reason: "stop" (the model ended), "length" or "cancelled".
    """

    token_ids: tuple[int, ...]
    score: float | None
    finish_reason: FinishReason


AnswerStream = Generator[tuple[int, ...], None, list[Continuation]]


def answer_blank(
    model: GLMForCausalLM,
    prompt: list[int],
    blank: int,
    options: FillOptions,
    generator: torch.Generator | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Continuation]:
    """The answers to one blank, best first: ``options.num_beams`` by beam search, one by sampling.

    Args:
        prompt: ids of the text with its mask tokens, then ``<sop>``; fewer than ``options.max_length``.
        blank: index in ``prompt`` of the mask token to answer.
        should_stop: asked after every token.

    Raises:
        GLMError: the model's scores are not finite.
        ValueError: more beams than the vocabulary has candidates for.
    """
    return result_of(stream_answer(model, prompt, blank, options, generator, should_stop))


@torch.no_grad()
def stream_answer(
    model: GLMForCausalLM,
    prompt: list[int],
    blank: int,
    options: FillOptions,
    generator: torch.Generator | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> AnswerStream:
    """As :func:`answer_blank`, token by token: yields the best answer so far, returns what `answer_blank` does."""
    assert len(prompt) < options.max_length
    passes = BlankPasses(model, len(prompt), blank, prompt[blank], options.max_length)
    answer = _search if options.strategy == "beam_search" else _sample
    return (yield from answer(passes, prompt, options, end_tokens(model.config), generator, should_stop))


def result_of(steps: Generator[object, None, T]) -> T:
    """Run a generator to its end; what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def end_tokens(config: GLMConfig) -> list[int]:
    """The ids that end an answer: ``<eop>`` and, for a model that has it in ``eos_token_id``, ``</s>``."""
    return config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]


def prompt_mask(length: int) -> Tensor:
    """bool [1, 1, length, length], True = masked: all see the context, only ``<sop>``, the last, sees itself."""
    masked = torch.zeros(1, 1, length, length, dtype=torch.bool)
    masked[..., :-1, -1] = True
    return masked


def blank_position_ids(config: GLMConfig, prompt_length: int, blank: int, kind: int, length: int) -> Tensor:
    """Positions of a prompt and its answer, [1, length], or [1, 2, length] with block positions.

    Args:
        blank: index of the mask token.
        kind: its id; after [gMASK] a single row of positions counts on.
        length: tokens of prompt and answer.
    """
    padding, context, place = torch.tensor([[0], [prompt_length - 1], [blank]])
    if config.position_encoding_2d:
        return positions.block_position_ids(padding, context, place, length)
    counts_on = torch.tensor([kind == config.gmask_token_id])
    return positions.sequence_position_ids(padding, context, place, counts_on, length)


class BlankPasses:
    """The model's passes over one prompt and the answers that grow behind it, on one cache."""

    def __init__(self, model: GLMForCausalLM, prompt_length: int, blank: int, kind: int, max_length: int) -> None:
        self._model = model
        self._mask = prompt_mask(prompt_length).to(model.device)
        positions = blank_position_ids(model.config, prompt_length, blank, kind, max_length)
        self._positions = positions.to(model.device)
        self._cache: Cache | None = None
        self._length = 0  # tokens in the cache
        self._rows = 1

    def prefill(self, prompt: list[int]) -> Tensor:
        """Scores of the first token, [1, vocab]."""
        return self._forward(torch.tensor([prompt]), self._mask)

    def step(self, tokens: list[int], parents: list[int]) -> Tensor:
        """Scores of the next token, [len(tokens), vocab], where row i continues row ``parents[i]`` with token i."""
        assert self._cache is not None
        if parents != list(range(self._rows)):
            self._cache.batch_select_indices(torch.tensor(parents, device=self._model.device))
        self._rows = len(parents)
        return self._forward(torch.tensor(tokens)[:, None], None)

    def _forward(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        rows, new = input_ids.shape
        positions = self._positions[..., self._length : self._length + new]
        output = self._model(
            input_ids.to(self._model.device),
            attention_mask=attention_mask,
            position_ids=positions.expand(rows, *positions.shape[1:]),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache = output.past_key_values
        self._length += new
        return _finite(output.logits[:, -1])


def _finite(logits: Tensor) -> Tensor:
    if not torch.isfinite(logits).all():
        raise GLMError(
            f"the model's scores are not finite in {str(logits.dtype).removeprefix('torch.')}: load it in float32 or "
            "bfloat16, or check its weights"
        )
    return logits


def _sample(
    passes: BlankPasses,
    prompt: list[int],
    options: FillOptions,
    ends: list[int],
    generator: torch.Generator | None,
    should_stop: Callable[[], bool],
) -> AnswerStream:
    answer: list[int] = []
    logits = passes.prefill(prompt)
    while True:
        token = _next_token(logits.float(), options, generator)
        if token in ends:
            return [Continuation(tuple(answer), None, "stop")]
        answer.append(token)
        if reason := _interruption(len(prompt) + len(answer), options, should_stop):
            return [Continuation(tuple(answer), None, reason)]
        yield tuple(answer)
        logits = passes.step([token], [0])


def _next_token(logits: Tensor, options: FillOptions, generator: torch.Generator | None) -> int:
    if is_greedy(options.temperature):
        return int(logits.argmax())
    filter_scores = SATSamplingProcessor(options.temperature, options.top_k, options.top_p)
    return int(draw(filter_scores(None, logits), 1, generator))


def _search(
    passes: BlankPasses,
    prompt: list[int],
    options: FillOptions,
    ends: list[int],
    generator: torch.Generator | None,
    should_stop: Callable[[], bool],
) -> AnswerStream:
    search = BeamSearch(
        prompt,
        options.num_beams,
        ends,
        length_penalty=options.length_penalty,
        no_repeat_ngram_size=options.no_repeat_ngram_size,
        min_gen_length=options.min_gen_length,
        deterministic=options.deterministic,
        generator=generator,
    )
    parents, tokens = search.advance(passes.prefill(prompt))
    reason = _interruption(search.length, options, should_stop)
    while not (search.is_done or reason):
        yield _answer_ids(search.beams()[0], len(prompt))
        parents, tokens = search.advance(passes.step(tokens, parents))
        reason = _interruption(search.length, options, should_stop)
    return [
        Continuation(_answer_ids(beam, len(prompt)), beam.score, "stop" if beam.ended else reason or "length")
        for beam in search.beams()
    ]


def _answer_ids(beam: Beam, prompt_length: int) -> tuple[int, ...]:
    """A beam without its prompt and its end token."""
    return tuple(beam.token_ids[prompt_length : -1 if beam.ended else None])


def _interruption(
    length: int, options: FillOptions, should_stop: Callable[[], bool]
) -> Literal["length", "cancelled"] | None:
    if length >= options.max_length:
        return "length"
    return "cancelled" if should_stop() else None
