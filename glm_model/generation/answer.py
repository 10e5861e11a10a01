"""Decode one answer: choose its tokens, decide when it ends, and prepare the inputs of the next forward pass."""

from collections.abc import Callable, Collection, Iterator

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from ..errors import UnsupportedError
from .passes import DecodingBatch
from .sampling import Chooser

Guesser = Callable[[Tensor], list[int]]
"""A function from all ids so far, [1, length], to tokens that may follow. The guesses are computed together with the
newest token, and removed from the cache if they are wrong."""

GuesserMaker = Callable[[int, int, Collection[int]], Guesser]
"""A function (most guesses, longest text in tokens, end tokens) -> :data:`Guesser`."""

_guesser_maker: GuesserMaker | None = None


def register_guesser(maker: GuesserMaker) -> None:
    """Let :func:`make_guesser` make its guessers with ``maker``."""
    global _guesser_maker
    _guesser_maker = maker


def make_guesser(count: int, longest: int, ends: Collection[int]) -> Guesser | None:
    """Return a function that guesses up to ``count`` tokens ahead, or None for a count of 0.

    Args:
        count: the most tokens that are guessed in one step.
        longest: the number of tokens of prompt and answer at which the answer is cut.
        ends: ids that end an answer, which are never guessed.

    Raises:
        UnsupportedError: this installation has no ``glm_model.generation.prompt_lookup``.
    """
    if not count:
        return None
    if _guesser_maker is None:
        raise UnsupportedError("prompt_lookup needs glm_model.generation.prompt_lookup, which is not installed")
    return _guesser_maker(count, longest, ends)


class Answer:
    """The unfinished answer of one row, which grows token by token.

    Args:
        prompt: ids, LongTensor [1, length].
        choose: chooses the next token from its logits.
        ends: ids that end the answer.
        longest: the number of tokens of prompt and answer at which the answer is cut.
        also_stops: a further function (all ids, newest scores) -> whether the answer has ended; None if there is none.
        guess: guesses tokens ahead; None guesses none.

    Attributes:
        ids: prompt and answer so far, LongTensor [1, length].
        finished: whether the newest token is the last one.
        wrong_guesses: how many of the tokens computed last do not belong to the answer.
    """

    def __init__(
        self,
        prompt: Tensor,
        choose: Chooser,
        ends: Collection[int],
        longest: float,
        *,
        also_stops: Callable[[Tensor, Tensor], bool] | None = None,
        guess: Guesser | None = None,
    ) -> None:
        self.ids = prompt
        self.finished = False
        self.wrong_guesses = 0
        self._choose = choose
        self._ends = frozenset(ends)
        self._longest = longest
        self._also_stops = also_stops
        self._guess = guess
        self._guesses: list[int] = []

    @property
    def guesses_ahead(self) -> bool:
        """Whether a step may compute guessed tokens, which must be removed from the cache if they are wrong."""
        return self._guess is not None

    def read(self, logits: Tensor) -> Iterator[int]:
        """Choose tokens from logits, and yield each as it is added to ``ids``.

        Args:
            logits: [1, n, vocab], computed for the inputs that :meth:`next_inputs` gave.
        """
        for place in range(logits.shape[1]):
            tokens, scores = self._choose(self.ids, logits[:, place])
            token = int(tokens)
            self.ids = torch.cat([self.ids, tokens[:, None]], dim=-1)
            self.finished = self._stops(token, scores)
            self.wrong_guesses = len(self._guesses) - place
            yield token
            if self.finished or [token] != self._guesses[place : place + 1]:
                return

    def next_inputs(self) -> Tensor:
        """Return the ids [1, n] to compute next: the newest token, and guesses of what follows it."""
        newest = self.ids[:, -1:]
        if self._guess is None:
            return newest
        self._guesses = self._guess(self.ids)
        return torch.cat([newest, newest.new_tensor([self._guesses])], dim=-1) if self._guesses else newest

    def _stops(self, token: int, scores: Tensor) -> bool:
        if token in self._ends or self.ids.shape[1] >= self._longest:
            return True
        return self._also_stops is not None and self._also_stops(self.ids, scores)


def write_answer(
    batch: DecodingBatch,
    answer: Answer,
    positions: Callable[[Tensor], Tensor],
    attention_mask: Tensor | None = None,
    *,
    moving_tokens: Collection[int] = (),
    cache: Cache | None = None,
) -> Iterator[int]:
    """Yield an answer's tokens as they are chosen, including the last one.

    Args:
        batch: the batch that the row joins; the row leaves it at the end, or when the iterator is closed.
        answer: the answer with its prompt; changed in place.
        positions: a function from all ids [1, length] to the positions of prompt and answer, [1, 2, longest] or
            (GLM-130B) [1, longest].
        attention_mask: the mask of the prompt; see :meth:`DecodingBatch.insert`.
        moving_tokens: ids (mask tokens) that change the answer's positions when they are written into it.
        cache: see :meth:`DecodingBatch.insert`.
    """
    rows, logits = batch.insert(
        answer.ids, positions(answer.ids), attention_mask, cache=cache, quick_steps=not answer.guesses_ahead
    )
    logits = logits[:, None]
    try:
        while True:
            moved = False
            for token in answer.read(logits):
                moved = moved or token in moving_tokens
                yield token
            if answer.finished:
                return
            if moved:
                rows.position_ids = positions(answer.ids)
            rows.forget(answer.wrong_guesses)
            logits = batch.step({rows: answer.next_inputs()})[rows]
    finally:
        batch.remove(rows)
