"""Beam search as GLM-130B's BeamSearchStrategy (``generation/strategies.py``) does it. Knows no model and no text.

Unlike transformers': every step weighs ``(end tokens + 1) * beams`` candidates, so that as many beams always go on as
were asked for; a finished beam's score is divided by OpenNMT's penalty of the length of prompt and answer; n-grams are
looked for in the answer alone.
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
        token_ids: prompt and answer; the end token too, if there is one.
        score: log-probability of the answer, divided by the length penalty.
        ended: the answer ends with an end token.
    """

    token_ids: list[int]
    score: float
    ended: bool


class BeamSearch:
    """The state of one search; the caller runs the model.

    Args:
        prompt: ids that every beam starts with.
        num_beams: beams to follow.
        end_tokens: ids that finish a beam.
        length_penalty: exponent of ``(5 + length) / 6``.
        no_repeat_ngram_size: forbid an answer to write an n-gram again; 0 and 1 are off.
        min_gen_length: no end token before so many tokens.
        deterministic: go on with the best candidates instead of drawing them.
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
        """As many beams have ended as are wanted, and none that runs is better now than the last of them."""
        return len(self._finished) == self._num_beams and self._finished[-1].score >= self._running[0].score

    def advance(self, logits: Tensor) -> tuple[list[int], list[int]]:
        """Take one step.

        Args:
            logits: [running beams, vocab], the scores of each running beam's next token; one row at the first step.

        Returns:
            Of each beam that runs on, the index of the beam it continues and its new token.

        Raises:
            ValueError: the vocabulary is too small for so many beams.
        """
        vocabulary = logits.shape[-1]
        log_probabilities = F.log_softmax(self._without_banned(logits), dim=-1)
        totals = (log_probabilities + self._log_probabilities[:, None].to(logits.device)).flatten()
        chosen = self._candidates(totals, vocabulary)
        scores, order = totals[chosen].cpu().sort(descending=True)
        # In float64, which holds the powers of a great length penalty.
        penalised = scores.double() / ((5.0 + self.length + 1) / 6) ** self._length_penalty
        kept = self._sort_out(chosen.cpu()[order].tolist(), penalised.tolist(), vocabulary)
        self._log_probabilities = scores[[rank for rank, _, _ in kept]]
        return [parent for _, parent, _ in kept], [token for _, _, token in kept]

    def beams(self, consider_end: bool = True) -> list[Beam]:
        """The result, best first: ``num_beams`` of all beams, or, without ``consider_end``, those that still run.

        A search that is done has no use for the running ones. Stopped before, they compete with the finished ones.
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
        """The tokens that would complete an n-gram of which the answer has written the last token before."""
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
        """Finish the candidates that end and run on with the best of the others.

        Args:
            candidates: ``parent * vocabulary + token``, best first; with their penalised scores.

        Returns:
            (rank, parent, token) of each candidate that runs on.
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
        """The best of ``beams``, best first, and a new one; of equals the newest comes first."""
        better = sum(beam.score > new.score for beam in beams)
        return [*beams[:better], new, *beams[better:]][: self._num_beams]
