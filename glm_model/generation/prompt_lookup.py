"""Guess the next tokens by prompt lookup: find the end of the text earlier in the text, and propose what followed.

This is the "prompt lookup decoding" of transformers: the longest n-gram at the end of the text that also occurs earlier
is used, and of its occurrences the first.
"""

from collections.abc import Collection

from torch import Tensor

from .answer import Guesser, register_guesser

LONGEST_NGRAM = 2  # tokens of the longest n-gram; the default of transformers


def lookup_guesser(count: int, longest: int, ends: Collection[int]) -> Guesser:
    """Return a function that proposes up to ``count`` tokens, which followed an earlier occurrence of the text's end.

    Args:
        count: the most tokens that it proposes.
        longest: the number of tokens of prompt and answer at which the answer is cut. A step yields one token more than
            it was given guesses, so fewer are proposed near the end.
        ends: end tokens; neither they nor tokens after them are proposed.
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
