"""Searches with beams as GLM-130B's BeamSearchStrategy (``generation/strategies.py``) does; the caller runs the model.

It differs from transformers' beam search in three ways. Every step takes ``(end tokens + 1) * beams`` candidates, so
that ``beams`` of them always run on. A beam's score is divided by OpenNMT's length penalty, of prompt and answer
together. Repeated n-grams are looked for in the answer only.
"""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .sampling import FILTERED, draw


@dataclass(frozen=True)
class Beam:
    """A sequence that a search has found.

    Args:
        token_ids: ids of prompt and answer, the end token included.
        score: log-probability of the answer, divided by the length penalty.
        ended: True if the answer ends with an end token.
    """

    token_ids: list[int]
    score: float
    ended: bool


class BeamSearch:
    """The state of one search; the caller runs the model.

    Args:
        prompt: ids that every beam starts with.
        num_beams: number of beams.
        end_tokens: ids that finish a beam.
        length_penalty: exponent of ``(5 + length) / 6``, by which a log-probability is divided; ``length`` counts the
            tokens of prompt and answer.
        no_repeat_ngram_size: n of the n-grams that an answer may not repeat; 0 and 1 are off.
        min_gen_length: least number of tokens of an answer before its end token.
        deterministic: take the best candidates; if False, draw them.
        generator: source of randomness; None is torch's own.
    """

    def __init__(
        self,
        prompt: list[int],
        num_beams: int,
        end_tokens: Collection[int],
        *,
        length_penalty: float = 1.0,
        no_repeat_ngram_size: int = 0,
        min_gen_length: int = 0,
        deterministic: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        self._prompt_length = len(prompt)
        self._num_beams = num_beams
        self._end_tokens = end_tokens
        self._length_penalty = length_penalty
        self._ngram = no_repeat_ngram_size
        self._min_gen_length = min_gen_length
        self._deterministic = deterministic
        self._generator = generator
        self._finished: list[Beam] = []  # best first, at most `num_beams`
        self._running = [Beam(prompt, 0.0, ended=False)]  # best first; scored like the finished ones
        self._log_probabilities = torch.zeros(1)  # of the running beams, float32

    @property
    def length(self) -> int:
        """Tokens of prompt and answer of every running beam."""
        return len(self._running[0].token_ids)

    @property
    def is_done(self) -> bool:
        """Whether ``num_beams`` beams have ended and no running beam has a better score now than the worst of them."""
        return len(self._finished) == self._num_beams and self._finished[-1].score >= self._running[0].score

    def advance(self, logits: Tensor) -> tuple[list[int], list[int]]:
        """Take one step.

        Args:
            logits: [running beams, vocab], of each running beam's next token; one row at the first step.

        Returns:
            For the beams that run on: the indices of the beams that they continue, and their new tokens.

        Raises:
            ValueError: the vocabulary is too small for so many beams.
        """
        vocabulary = logits.shape[-1]
        log_probabilities = F.log_softmax(self._without_banned(logits), dim=-1)
        totals = (log_probabilities + self._log_probabilities[:, None].to(logits.device)).flatten()
        chosen = self._candidates(totals, vocabulary)
        scores, order = totals[chosen].cpu().sort(descending=True)
        # In float64, because powers with a large length penalty overflow float32.
        penalised = scores.double() / ((5.0 + self.length + 1) / 6) ** self._length_penalty
        kept = self._sort_out(chosen.cpu()[order].tolist(), penalised.tolist(), vocabulary)
        self._log_probabilities = scores[[rank for rank, _, _ in kept]]
        return [parent for _, parent, _ in kept], [token for _, _, token in kept]

    def beams(self, consider_end: bool = True) -> list[Beam]:
        """Return the best ``num_beams`` beams, best first; if not ``consider_end``, the running beams only.

        A search that is done returns its finished beams only. One that was stopped before compares finished and
        running beams by score.
        """
        if not consider_end:
            return list(self._running)
        beams = self._finished
        for beam in [] if self.is_done else self._running:
            beams = self._ranked(beams, beam)
        return list(beams)

    def _without_banned(self, logits: Tensor) -> Tensor:
        logits = logits.to(torch.float32, copy=True)
        if self.length - self._prompt_length < self._min_gen_length:
            logits[:, list(self._end_tokens)] = FILTERED
        for row, beam in enumerate(self._running):
            logits[row, self._repetitions(beam.token_ids)] = FILTERED
        return logits

    def _repetitions(self, ids: list[int]) -> list[int]:
        """Return the tokens that would repeat an n-gram whose last token is in the answer."""
        prefix = self._ngram - 1
        if prefix < 1:
            return []
        first = max(self._prompt_length, prefix)
        return [ids[i] for i in range(first, len(ids)) if ids[i - prefix : i] == ids[-prefix:]]

    def _candidates(self, totals: Tensor, vocabulary: int) -> Tensor:
        count = (max(1, len(self._end_tokens)) + 1) * self._num_beams
        if count > vocabulary:
            raise ValueError(
                f"num_beams={self._num_beams} needs {count} candidates and the vocabulary has {vocabulary} tokens: "
                f"use at most {vocabulary * self._num_beams // count} beams"
            )
        if self._deterministic:
            return F.softmax(totals, dim=-1).topk(count).indices
        return draw(totals, count, self._generator)

    def _sort_out(self, candidates: list[int], scores: list[float], vocabulary: int) -> list[tuple[int, int, int]]:
        """Finish the candidates that end, and make the best of the others the running beams.

        Args:
            candidates: ``parent * vocabulary + token`` of each candidate, best first.
            scores: the score of each candidate, after the length penalty.
            vocabulary: number of tokens.

        Returns:
            (index among the candidates, parent, token) of each candidate that runs on.
        """
        parents = self._running
        self._running, kept = [], []
        for rank, (candidate, score) in enumerate(zip(candidates, scores, strict=True)):
            parent, token = divmod(candidate, vocabulary)
            beam = Beam([*parents[parent].token_ids, token], score, ended=token in self._end_tokens)
            if beam.ended:
                self._finished = self._ranked(self._finished, beam)
            elif len(self._running) < self._num_beams:
                self._running.append(beam)
                kept.append((rank, parent, token))
            else:
                break
        return kept

    def _ranked(self, beams: list[Beam], new: Beam) -> list[Beam]:
        """Return the best ``num_beams`` of ``beams`` (best first) and a new beam, which comes before equal ones."""
        better = sum(beam.score > new.score for beam in beams)
        return [*beams[:better], new, *beams[better:]][: self._num_beams]
