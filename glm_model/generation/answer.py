"""The decoding loop of one answer: what to choose, when to stop, and what to compute next."""

from collections.abc import Callable, Collection, Iterator

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from ..errors import UnsupportedError
from .passes import DecodingBatch
from .sampling import Chooser

Guesser = Callable[[Tensor], list[int]]
"""From all ids so far [1, length], tokens that may follow; computed with the next one, and taken back if wrong."""

GuesserMaker = Callable[[int, int, Collection[int]], Guesser]
"""(most guesses, longest text in tokens, end tokens) -> what guesses."""

_guesser_maker: GuesserMaker | None = None


def register_guesser(maker: GuesserMaker) -> None:
    """Have answers that are to be guessed ahead ask ``maker`` for what guesses."""
    global _guesser_maker
    _guesser_maker = maker


def make_guesser(count: int, longest: int, ends: Collection[int]) -> Guesser | None:
    """Return what guesses up to ``count`` tokens ahead, None for a count of 0.

    Raises:
        UnsupportedError: this installation has no ``glm_model.generation.prompt_lookup``.
    """
    if not count:
        return None
    if _guesser_maker is None:
        raise UnsupportedError("prompt_lookup needs glm_model.generation.prompt_lookup, which is not installed")
    return _guesser_maker(count, longest, ends)


class Answer:
    """The answer of one row in the making.

    Args:
        prompt: ids [1, length].
        choose: the next token from scores.
        ends: ids after which the answer has ended.
        longest: tokens of prompt and answer at which it is cut.
        also_stops: asked with all ids and the newest scores whether the answer has ended; None if nothing else ends it.
        guess: tokens to try ahead; None tries none.

    Attributes:
        ids: prompt and answer, LongTensor [1, length].
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
        """Whether a step may compute tokens that are taken back."""
        return self._guess is not None

    def read(self, logits: Tensor) -> Iterator[int]:
        """Choose tokens from logits [1, n, vocab] of the newest token and its guesses; yield each as it is added."""
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
    """Yield an answer's tokens as they are chosen, the last one included.

    Args:
        batch: where the row joins, and leaves at the end or when the reader closes this.
        answer: holds the prompt; changed in place.
        positions: from all ids [1, length], the positions of prompt and answer, [1, 2, longest] or [1, longest].
        attention_mask: of the prompt; see :meth:`DecodingBatch.insert`.
        moving_tokens: ids that, written into the answer, change its positions.
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
