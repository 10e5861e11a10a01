"""Prompt lookup: what followed earlier in the text, where it stands now, is tried as its continuation.

As "prompt lookup decoding" of transformers: of the longest n-gram at the end of the text that stood in it before, the
first occurrence counts.
"""

from collections.abc import Collection

from torch import Tensor

from .answer import Guesser, register_guesser

LONGEST_NGRAM = 2  # tokens to look for; transformers' own default


def lookup_guesser(count: int, longest: int, ends: Collection[int]) -> Guesser:
    """Return what finds up to ``count`` tokens that followed, earlier in the text, where it stands now.

    Args:
        longest: tokens of prompt and answer; a step gives one token more than it was given guesses.
        ends: ids that are never guessed, nor what stands behind them.
    """

    def guess(input_ids: Tensor) -> list[int]:
        ids = input_ids[0].tolist()
        most = min(count, longest - 1 - len(ids))
        found = _continuation(ids, most) if most > 0 else []
        end = next((index for index, token in enumerate(found) if token in ends), len(found))
        return found[:end]

    return guess


def _continuation(ids: list[int], most: int) -> list[int]:
    for size in range(min(LONGEST_NGRAM, len(ids) - 1), 0, -1):
        ngram = ids[-size:]
        for start in range(len(ids) - size):
            if ids[start : start + size] == ngram:
                return ids[start + size : start + size + most]
    return []


register_guesser(lookup_guesser)
