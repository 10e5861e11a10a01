"""Decode one answer: choose its tokens, decide when it ends, and prepare the inputs of the next forward pass."""

from collections.abc import Callable, Collection, Generator
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from ..errors import UnsupportedError
from .requests import Insert, Request, Step
from .row_sampling import RowSampler
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
        finished: whether the newest token is the last one.
        length: the number of tokens of the answer.
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
        self.finished = False
        self.wrong_guesses = 0
        self.length = 0
        self._prompt = prompt
        self._most = longest - prompt.shape[1]
        self._tokens: list[int] = []
        self._choose = choose
        self._ends = frozenset(ends)
        self._also_stops = also_stops
        self._guess = guess
        self._guesses: list[int] = []

    @property
    def ids(self) -> Tensor:
        """Prompt and answer so far, LongTensor [1, length]."""
        if self._tokens:  # what has been read once is kept as a tensor
            self._prompt = torch.cat([self._prompt, self._prompt.new_tensor([self._tokens])], dim=-1)
            self._tokens = []
        return self._prompt

    @property
    def sampler(self) -> RowSampler | None:
        """The sampler, if it can choose for this row together with those of other rows."""
        return self._choose if isinstance(self._choose, RowSampler) and self._guess is None else None

    @property
    def guesses_ahead(self) -> bool:
        """Whether a step may compute guessed tokens, which must be removed from the cache if they are wrong."""
        return self._guess is not None

    def read(self, result: Tensor | int) -> list[int]:
        """Add tokens, and return them.

        Args:
            result: of the request for what :meth:`next_inputs` gave: logits [1, n, vocab], or the token that
                ``sampler`` has chosen.
        """
        if isinstance(result, int):
            self._add(result)
            return [result]
        added = []
        for place in range(result.shape[1]):
            chosen, scores = self._choose(self.ids, result[:, place])
            token = int(chosen)
            self._add(token, scores)
            added.append(token)
            self.wrong_guesses = len(self._guesses) - place
            if self.finished or [token] != self._guesses[place : place + 1]:
                break
        return added

    def next_inputs(self, may_guess: bool = True) -> list[int]:
        """Return the ids to compute next: the newest token, and guesses of what follows it."""
        if self._guess is None:
            return [self._newest]
        self._guesses = self._guess(self.ids) if may_guess else []
        return [self._newest, *self._guesses]

    def _add(self, token: int, scores: Tensor | None = None) -> None:
        self._newest = token
        self._tokens.append(token)
        self.length += 1
        self.finished = token in self._ends or self.length >= self._most
        if not self.finished and self._also_stops is not None:
            assert scores is not None
            self.finished = self._also_stops(self.ids, scores)


class AnswerRow:
    """The row in which an answer is written.

    Args:
        answer: the answer with its prompt; changed in place.
        context: the number of tokens of the prompt in front of ``<sop>``.
        positions: a function from all ids [1, length] to the positions of prompt and answer, [1, 2, longest] or
            (GLM-130B) [1, longest].
        attention_mask: the mask of the prompt; see :class:`.requests.Insert`.
        moving_tokens: ids (mask tokens) that change the answer's positions when they are written into it.
        cache: see :class:`.requests.Insert`.
    """

    def __init__(
        self,
        answer: Answer,
        context: int,
        positions: Callable[[Tensor], Tensor],
        attention_mask: Tensor | None = None,
        *,
        moving_tokens: Collection[int] = (),
        cache: Cache | None = None,
    ) -> None:
        self._answer = answer
        self._positions = positions
        self._moving_tokens = frozenset(moving_tokens)
        self._insert = Insert(
            answer.ids,
            context,
            positions(answer.ids),
            answer.sampler,
            attention_mask,
            cache,
            may_take_back=answer.guesses_ahead,
        )
        self._tokens: list[int] = []

    def next_tokens(self) -> Generator[Request, Any, list[int]]:
        """Request a forward pass, and return the tokens with which the answer goes on, one or more."""
        request: Request = self._insert
        if self._tokens:
            rows = self._insert.rows
            if not self._moving_tokens.isdisjoint(self._tokens):
                rows.position_ids = self._positions(self._answer.ids)
            rows.forget(self._answer.wrong_guesses)
            request = Step(rows, [self._answer.next_inputs(not rows.has_company)], self._answer.sampler)
        self._tokens = self._answer.read((yield request))
        return self._tokens

    def leave(self) -> None:
        """Free the memory of the row."""
        self._insert.leave()
