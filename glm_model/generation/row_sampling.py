"""Choose the next tokens of many rows at once, each with settings and random numbers of its own.

The distribution is that of transformers' temperature, top-k and top-p, in this order. Those processors sort the whole
vocabulary of 130,528 words and mask it several times, which takes longer than a step of a small model. Here top-k comes
first, and everything after it handles only the tokens that it has left (`python benchmarks/serve.py --parts sampling`).

What a row draws depends on its own scores and random numbers alone, so a seed gives the same answer in any company.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import GLMError
from ..options import SamplingOptions, is_greedy
from .sampling import NOT_FINITE, finite_rows

_FIRST_LOOK = 256
"""The tokens among which top-p looks first if there is no top-k; it looks at eight times as many while they are too
few."""

_DRAWS_AHEAD = 64


class RowSampler:
    """The settings by which one row chooses its tokens, and its source of randomness.

    Args:
        temperature: divides the scores; from 0 to below 1e-6 takes the likeliest token.
        top_k: the number of tokens to keep; tokens as likely as the last of them are kept too; 0 keeps all.
        top_p: of these, the likeliest are kept until their probabilities add up to this; 1 keeps all.
        seed: of the random numbers; None draws them from torch's default generator.
    """

    def __init__(self, temperature: float, top_k: int, top_p: float, seed: int | None = None) -> None:
        self.is_greedy = is_greedy(temperature)
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)
        self._numbers: list[float] = []

    @classmethod
    def from_options(cls, options: SamplingOptions) -> "RowSampler":
        """Return the sampler that options of a chat ask for."""
        return cls(options.temperature, options.top_k, options.top_p, options.seed)

    def draw(self) -> float:
        """Return a random number from 0 to below 1, which stays the same until :meth:`go_on`."""
        if not self._numbers:
            # Read from the end, so that the order is that of the generator.
            numbers = torch.rand(_DRAWS_AHEAD, generator=self._generator, dtype=torch.float64)
            self._numbers = numbers.tolist()[::-1]
        return self._numbers[-1]

    def go_on(self) -> None:
        """Let :meth:`draw` return the next number."""
        if self._numbers:
            self._numbers.pop()

    def __call__(self, input_ids: object, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the token [1] that this row chooses by logits [1, vocab], and these; see :class:`.sampling.Chooser`.

        Raises:
            GLMError: the logits are NaN or infinite.
        """
        (token,) = choose_tokens(logits, [self])
        if token is None:
            raise GLMError(NOT_FINITE)
        return torch.tensor([token], device=logits.device), logits


def choose_tokens(logits: Tensor, samplers: Sequence[RowSampler]) -> list[int | None]:
    """Return the token that each row chooses; None for a row whose logits are NaN or infinite.

    After an error the samplers draw the same numbers again.

    Args:
        logits: floating [rows, vocab].
        samplers: one for each row.
    """
    logits = logits.float()
    finite = finite_rows(logits)
    rows_of: dict[Callable[[Tensor, Sequence[RowSampler]], list[int]], list[int]] = {}
    for row, sampler in enumerate(samplers):
        if finite[row]:
            rows_of.setdefault(_rule(sampler, logits.shape[-1]), []).append(row)
    found: list[int | None] = [None] * len(samplers)
    for choose, rows in rows_of.items():
        own = logits if len(rows) == len(samplers) else logits[rows]
        for row, token in zip(rows, choose(own, [samplers[row] for row in rows]), strict=True):
            found[row] = token
    for sampler in samplers:
        sampler.go_on()
    return found


def _rule(sampler: RowSampler, vocabulary: int) -> Callable[[Tensor, Sequence[RowSampler]], list[int]]:
    if sampler.is_greedy:
        return _likeliest_token
    keeps_all = sampler.top_p >= 1 and not 0 < sampler.top_k < vocabulary
    return _draw_from_all if keeps_all else _draw_from_likeliest


def _likeliest_token(logits: Tensor, samplers: Sequence[RowSampler]) -> list[int]:
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    return tokens


def _draw_from_all(logits: Tensor, samplers: Sequence[RowSampler]) -> list[int]:
    """Return a token for each row of finite logits, any of the vocabulary."""
    settings = [(sampler.temperature, sampler.draw()) for sampler in samplers]
    temperature, numbers = torch.tensor(settings, dtype=torch.float64, device=logits.device).T[..., None]
    sums = _weights(logits, temperature).cumsum(dim=-1, dtype=torch.float64)
    place = torch.searchsorted(sums, numbers * sums[:, -1:], right=True).clamp_max(logits.shape[-1] - 1)
    tokens: list[int] = place.squeeze(1).tolist()
    return tokens


def _weights(logits: Tensor, temperature: Tensor) -> Tensor:
    """Return float32 numbers [rows, vocab] that are proportional to the probabilities, the largest of them 1."""
    return ((logits - logits.amax(dim=-1, keepdim=True)) / temperature.float()).exp_()


def _draw_from_likeliest(logits: Tensor, samplers: Sequence[RowSampler]) -> list[int]:
    """Return a token for each row of finite logits, of those that its top-k and top-p keep."""
    settings = [(sampler.temperature, sampler.top_p, sampler.draw()) for sampler in samplers]
    temperature, top_p, numbers = torch.tensor(settings, dtype=torch.float64, device=logits.device).T[..., None]
    found = _candidates(logits, [sampler.top_k for sampler in samplers], temperature, top_p)
    # A token is kept while the sum of all likelier ones is less than top-p; the first one always is.
    before = F.pad(found.sums[:, :-1], (1, 0))
    kept = (before < top_p * found.totals).sum(dim=-1, keepdim=True)
    last = kept.clamp_min(1) - 1
    place = torch.searchsorted(found.sums, numbers * found.sums.gather(1, last), right=True)
    tokens: list[int] = found.tokens.gather(1, place.minimum(last)).squeeze(1).tolist()
    return tokens


@dataclass(frozen=True)
class _Candidates:
    """Tokens of each row, the likeliest first, and their weights, which are proportional to their probabilities.

    Args:
        tokens: LongTensor [rows, count]; of equally likely ones the smallest id comes first.
        sums: float64 [rows, count], the sum of the weights up to each token.
        totals: float64 [rows, 1], the sum of the weights of all tokens that the row may choose by its top-k.
    """

    tokens: Tensor
    sums: Tensor
    totals: Tensor


def _candidates(logits: Tensor, top_k: list[int], temperature: Tensor, top_p: Tensor) -> _Candidates:
    vocabulary = logits.shape[-1]
    kept = torch.tensor([min(k, vocabulary) or vocabulary for k in top_k], device=logits.device)[:, None]
    is_limited = kept < vocabulary
    if bool(is_limited.all()):
        return _likeliest(logits, int(kept.max()), kept, temperature)
    # A row without top-k may choose any token, so that the sum of all weights is needed.
    everything = _weights(logits, temperature).sum(dim=-1, keepdim=True, dtype=torch.float64)
    count = max(_FIRST_LOOK, int(kept[is_limited].max()) if bool(is_limited.any()) else 0)
    while True:
        found = _likeliest(logits, count, kept, temperature)
        if count >= vocabulary:  # now the sum is known exactly
            return found
        totals = torch.where(is_limited, found.totals, everything)
        if bool((is_limited | (found.sums[:, -1:] >= top_p * totals)).all()):
            return _Candidates(found.tokens, found.sums, totals)
        count *= 8


def _likeliest(logits: Tensor, count: int, kept: Tensor, temperature: Tensor) -> _Candidates:
    """Return the ``count`` likeliest tokens of each row, or all, of which those beyond its top-k have no weight.

    Args:
        logits: float32 [rows, vocab].
        count: at least the largest top-k.
        kept: LongTensor [rows, 1], the top-k of each row.
        temperature: float64 [rows, 1].
    """
    vocabulary = logits.shape[-1]
    # With one more than needed it shows whether others are as likely as the last one.
    scores, tokens = logits.topk(min(count + 1, vocabulary), dim=-1)
    is_unlimited = kept == vocabulary
    least = scores.gather(1, kept.clamp_max(scores.shape[-1]) - 1)
    if bool(((scores[:, -1:] >= least) & ~is_unlimited).any()):
        ties = int(((logits >= least).sum(dim=-1, keepdim=True) * ~is_unlimited).max())
        scores, tokens = logits.topk(max(ties, scores.shape[-1]), dim=-1)
    tokens, order = tokens.sort(dim=-1)
    scores, order = scores.gather(1, order).sort(dim=-1, descending=True, stable=True)
    tokens = tokens.gather(1, order)
    weights = ((scores - scores[:, :1]).double() / temperature).exp_()
    weights *= (scores >= least) | is_unlimited
    sums = weights.cumsum(dim=-1)
    return _Candidates(tokens, sums, sums[:, -1:])
