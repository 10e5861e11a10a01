"""How answers are written and blanks are filled: each setting once, with its default and its range."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

# What transformers 4.27 added silently to the published sampling settings.
PUBLISHED_TOP_K = 50


# Scores divided by less overflow, or differ by so much that the best one is drawn in any case.
_LOWEST_TEMPERATURE = 1e-6


def is_greedy(temperature: float | None) -> bool:
    """Whether a temperature, 0 or more, is to take the best token: below 1e-6. None is left to transformers."""
    return temperature is not None and 0 <= temperature < _LOWEST_TEMPERATURE


def require_seed(seed: int | None) -> None:
    """Raises ValueError unless it is None or a seed that PyTorch takes: a whole number of at most 64 bits."""
    if seed is not None and (not isinstance(seed, int) or not -(2**63) <= seed < 2**64):
        raise ValueError(f"seed must be a whole number of at most 64 bits, or None; not {seed!r}")


@dataclass(frozen=True)
class SamplingOptions:
    """How to choose tokens.

    Args:
        max_length: tokens of prompt and answer together.
        temperature: 0, and anything below 1e-6, is greedy.
        top_p: keep the smallest set of tokens whose probability reaches this; 1 keeps all.
        top_k: keep so many tokens; 0 keeps all.
        seed: makes one answer reproducible on one machine; None draws anew each time.
        prompt_lookup: how many tokens of the text so far to try as its continuation in each step; 0 for none. The
            tokens stay the same, and come faster where an answer quotes what came before.

    Raises:
        ValueError: a value outside its range.
    """

    max_length: int = 2048
    temperature: float = 0.95
    top_p: float = 0.7
    top_k: int = PUBLISHED_TOP_K
    seed: int | None = None
    prompt_lookup: int = 0

    def __post_init__(self) -> None:
        if self.max_length < 1:
            raise ValueError(f"max_length must be at least 1, not {self.max_length}")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be 0 (greedy) or more, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (off) or more, not {self.top_k}")
        require_seed(self.seed)
        if self.prompt_lookup < 0:
            raise ValueError(f"prompt_lookup must be 0 (off) or more, not {self.prompt_lookup}")

    def generation_kwargs(self) -> dict[str, Any]:
        """The same settings as arguments of ``generate``."""
        return {"max_length": self.max_length, **sampling_kwargs(True, self.temperature, self.top_p, self.top_k)}


def sampling_kwargs(do_sample: bool, temperature: float, top_p: float, top_k: int = PUBLISHED_TOP_K) -> dict[str, Any]:
    """Return the arguments of ``generate`` that choose tokens so."""
    if not do_sample or is_greedy(temperature):
        return {"do_sample": False}
    return {"do_sample": True, "temperature": temperature, "top_k": top_k, "top_p": top_p}


FinishReason = Literal["stop", "length", "cancelled"]
"""Why an answer ended: the model ended it, it reached the longest length, or somebody stopped it."""

Strategy = Literal["sampling", "beam_search"]


_MOST_PENALTY = 100


@dataclass(frozen=True)
class FillOptions:
    """How to fill blanks; the defaults are those of GLM-130B's ``scripts/generate.sh``, except ``deterministic``.

    Args:
        strategy: "sampling" draws one answer token by token (the original's BaseStrategy); "beam_search" keeps the
            ``num_beams`` best answers (its BeamSearchStrategy).
        max_length: tokens of the whole text, blanks filled, and ``<sop>`` together (``--out-seq-length``).
        temperature: of sampling; 0, and anything below 1e-6, is greedy.
        top_k: sampling keeps so many tokens; 0 keeps all.
        top_p: sampling keeps the most probable tokens until their sum passes this; 0 keeps all.
        num_beams: answers that a beam search follows and returns.
        length_penalty: a beam's log-probability is divided by ``((5 + length) / 6) ** length_penalty``, where length
            counts the whole text; above 0 favours longer answers, below 0 shorter ones. From -100 to 100, so that the
            power is a number.
        no_repeat_ngram_size: a beam never writes so many tokens in a row twice; what stood in the text before does not
            count. 0 is off, and so is 1, as in the original.
        min_gen_length: a beam does not end before it has so many tokens.
        deterministic: a beam search goes on with the best candidates; False draws them by their probability, as
            ``generate.py`` does.
        seed: makes one result reproducible on one machine; None draws anew each time.
        every_kind: where a text holds several kinds of mask, fill one kind after the other; False fills, as the
            original, only the first kind present of [MASK], [sMASK], [gMASK] and leaves the others in the text.

    Raises:
        ValueError: a value outside its range.
    """

    strategy: Strategy = "sampling"
    max_length: int = 256
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.7
    num_beams: int = 4
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 3
    min_gen_length: int = 0
    deterministic: bool = True
    seed: int | None = None
    every_kind: bool = False

    def __post_init__(self) -> None:
        if self.strategy not in get_args(Strategy):
            raise ValueError(f"strategy must be one of {', '.join(get_args(Strategy))}, not {self.strategy!r}")
        for name, least in (
            ("max_length", 1),
            ("num_beams", 1),
            ("top_k", 0),
            ("no_repeat_ngram_size", 0),
            ("min_gen_length", 0),
        ):
            _require_whole(name, getattr(self, name), least)
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be 0 (greedy) or more, not {self.temperature}")
        if not 0 <= self.top_p <= 1:
            raise ValueError(f"top_p must be from 0 (off) to 1, not {self.top_p}")
        if not -_MOST_PENALTY <= self.length_penalty <= _MOST_PENALTY:
            raise ValueError(
                f"length_penalty must be from -{_MOST_PENALTY} to {_MOST_PENALTY}, not {self.length_penalty}"
            )
        require_seed(self.seed)


def _require_whole(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")
