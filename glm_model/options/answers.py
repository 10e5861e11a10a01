"""Defines the settings of writing answers and of filling blanks."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from .settings import Choice, Real, Switch, Whole, check_settings, setting

PUBLISHED_TOP_K = 50
"""The ``top_k`` that transformers 4.27 used by default, which the published code did not set."""

# Scores divided by a lower temperature overflow, or differ so much that the best one is always drawn.
_LOWEST_TEMPERATURE = 1e-6


def is_greedy(temperature: float | None) -> bool:
    """Return whether a temperature means greedy decoding: from 0 to below 1e-6. None and negative ones do not."""
    return temperature is not None and 0 <= temperature < _LOWEST_TEMPERATURE


class _Seed(Whole):
    """The whole numbers that PyTorch accepts as a seed."""

    def expected(self, value: object) -> str | None:
        """Return what the value must be instead; None if it is allowed."""
        return None if super().expected(value) is None else "a whole number of at most 64 bits"


SEEDS = _Seed(-(2**63), 2**64 - 1)


def require_seed(seed: int | None) -> None:
    """Raise ValueError unless the seed is None or one that PyTorch accepts: a whole number of at most 64 bits."""
    expected = None if seed is None else SEEDS.expected(seed)
    if expected is not None:
        raise ValueError(f"seed must be {expected}, or None; not {seed!r}")


def _seed_setting() -> Any:
    return setting(None, "makes the same question get the same answer on the same machine", SEEDS, metavar="N")


@dataclass(frozen=True)
class SamplingOptions:
    """How the tokens of an answer are chosen; each field's meaning is the ``help`` of its metadata.

    A temperature below 1e-6 is greedy, too. Prompt lookup changes no token; it makes decoding faster.

    Raises:
        ValueError: a value is not allowed.
    """

    max_length: int = setting(
        2048,
        "tokens of the conversation and its answer together, at most as many as the model was trained for",
        Whole(1),
        metavar="N",
    )
    temperature: float = setting(
        0.95, "0 for always the likeliest token, above 1 for surprises", Real(0, zero="greedy"), metavar="T"
    )
    top_p: float = setting(
        0.7,
        "choose among the likeliest tokens that hold this share of the probability",
        Real(0, 1, open_below=True),
        metavar="P",
    )
    top_k: int = setting(
        PUBLISHED_TOP_K,
        "choose among this many of the likeliest tokens; 0 for any number",
        Whole(0, zero="off"),
        metavar="N",
    )
    seed: int | None = _seed_setting()
    prompt_lookup: int = setting(
        0,
        "tokens of the text so far to try as its continuation in each step: faster where an answer quotes; 0 for none",
        Whole(0, zero="off"),
        metavar="N",
    )

    def __post_init__(self) -> None:
        check_settings(self)

    def generation_kwargs(self) -> dict[str, Any]:
        """Return these settings as arguments of ``generate``."""
        return {"max_length": self.max_length, **sampling_kwargs(True, self.temperature, self.top_p, self.top_k)}


def sampling_kwargs(do_sample: bool, temperature: float, top_p: float, top_k: int = PUBLISHED_TOP_K) -> dict[str, Any]:
    """Return the arguments of ``generate`` for these sampling settings; greedy if the temperature is below 1e-6."""
    if not do_sample or is_greedy(temperature):
        return {"do_sample": False}
    return {"do_sample": True, "temperature": temperature, "top_k": top_k, "top_p": top_p}


FinishReason = Literal["stop", "length", "cancelled"]
"""Why an answer ended: the model ended it, it reached the largest length, or the user stopped it."""

Strategy = Literal["sampling", "beam_search"]

# A larger length penalty would make the divisor of a beam's score infinite or 0.
_LARGEST_PENALTY = 100


@dataclass(frozen=True)
class FillOptions:
    """How blanks are filled; each field's meaning is the ``help`` of its metadata.

    The defaults are those of GLM-130B's ``scripts/generate.sh``, except ``deterministic``. "sampling" is the original's
    BaseStrategy, "beam_search" its BeamSearchStrategy. A beam's log-probability is divided by
    ``((5 + length) / 6) ** length_penalty``, where ``length`` counts the tokens of prompt and answer.
    ``no_repeat_ngram_size`` looks at the tokens of the answer only; 0 and 1 are both off, as in the original. A
    temperature below 1e-6 is greedy.

    Raises:
        ValueError: a value is not allowed.
    """

    strategy: Strategy = setting(
        "sampling",
        "sampling draws one answer token by token, beam_search keeps the best of several",
        Choice(get_args(Strategy)),
        metavar="NAME",
    )
    max_length: int = setting(
        256, "tokens of the whole text, blanks filled (--out-seq-length of the original)", Whole(1), metavar="N"
    )
    temperature: float = setting(1.0, "of sampling; 0 is greedy", Real(0, zero="greedy"), metavar="T")
    top_k: int = setting(
        0, "sampling: keep this many of the likeliest tokens; 0 keeps all", Whole(0, zero="off"), metavar="N"
    )
    top_p: float = setting(
        0.7, "sampling: keep the likeliest tokens up to this sum; 0 keeps all", Real(0, 1, zero="off"), metavar="P"
    )
    num_beams: int = setting(4, "answers that a beam search follows and returns", Whole(1), metavar="N")
    length_penalty: float = setting(
        1.0,
        "above 0 favours long answers, below 0 short ones",
        Real(-_LARGEST_PENALTY, _LARGEST_PENALTY),
        metavar="X",
    )
    no_repeat_ngram_size: int = setting(
        3, "a beam never writes so many tokens in a row twice; 0 is off", Whole(0, zero="off"), metavar="N"
    )
    min_gen_length: int = setting(0, "a beam has at least so many tokens", Whole(0), metavar="N")
    deterministic: bool = setting(
        True, "as the original, draw the beams to follow; else the best go on", Switch(), off_flag="--draw-beams"
    )
    seed: int | None = _seed_setting()
    every_kind: bool = setting(
        False,
        "as the original, fill only the first kind present of [MASK], [sMASK], [gMASK]; else one after the other",
        Switch(),
        off_flag="--one-kind",
    )

    def __post_init__(self) -> None:
        check_settings(self)
