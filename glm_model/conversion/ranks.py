"""Refuses files of ranks that are not the parts of one checkpoint, each in its place."""

import re
from collections.abc import Sequence

import torch

from ..errors import CheckpointError
from .tensor_parallel import cut_of
from .weight_file import WeightFile

# Largest difference between the copies of a tensor that every rank holds whole, relative to its largest value.
_TOLERATED_DIFFERENCE = 0.01
# What DeepSpeed stores beside the tensors of a training run; it is the same on all ranks.
_SHARED_FACTS = ("iteration", "global_steps", "mp_world_size")
_RANKS = "mp_world_size"


def require_one_checkpoint(ranks: Sequence[WeightFile], names: Sequence[str]) -> None:
    """Check that files are the ranks of one checkpoint, in their order.

    Args:
        ranks: the files in the order of ranks.
        names: names of all tensors; every file has each of them.

    Raises:
        CheckpointError: two files say that they are of different iterations or numbers of ranks, one is a copy of
            another, one was saved under another rank's name, or they differ in a tensor that every rank holds whole.
    """
    _require_equal_facts(ranks)
    _refuse_copies(ranks, [name for name in names if _is_cut_weight(name)])
    for number, rank in enumerate(ranks):
        _require_own_name(rank, number)
    for name in names:
        if cut_of(name) == "whole":
            _require_equal_copies(ranks, name)


def _require_equal_facts(ranks: Sequence[WeightFile]) -> None:
    first = ranks[0]
    for rank in ranks:
        for name in _SHARED_FACTS:
            if rank.facts.get(name) != first.facts.get(name):
                raise CheckpointError(
                    f"{rank.path} is of {name} {rank.facts.get(name)}, but {first.path.name} of "
                    f"{first.facts.get(name)}. The files are of different checkpoints."
                )
    if first.facts.get(_RANKS, len(ranks)) != len(ranks):
        raise CheckpointError(
            f"{first.path} is one of {first.facts[_RANKS]} ranks, but there are {len(ranks)} files in "
            f"{first.path.parent}. The download may be incomplete."
        )


def _is_cut_weight(name: str) -> bool:
    """Return whether ranks have different parts of a tensor; biases may be zeros, and scales equal, on all of them."""
    return name.endswith(".weight") and cut_of(name) != "whole"


def _refuse_copies(ranks: Sequence[WeightFile], names: Sequence[str]) -> None:
    """Raise CheckpointError if two ranks have the same part of a weight.

    Only parts that begin with the same bytes are read, so that ranks as they should be cost nothing.
    """
    for name in names:
        begun: dict[bytes, WeightFile] = {}
        for rank in ranks:
            other = begun.setdefault(rank.sample(name), rank)
            if other is not rank and _is_copy(other, rank, name):
                raise CheckpointError(
                    f"{rank.path} is a copy of {other.path}: both have the same part of {name}. Download the file of "
                    "the rank that is missing again."
                )


def _is_copy(rank: WeightFile, other: WeightFile, name: str) -> bool:
    """Return whether the parts of two ranks are equal, and not one value repeated, as parts that are not trained."""
    part = rank.read(name)
    return torch.equal(part, other.read(name)) and bool((part != part.flatten()[0]).any())


def _require_own_name(rank: WeightFile, number: int) -> None:
    """Raise CheckpointError if ``torch.save`` wrote the file under the name of another rank."""
    named = re.fullmatch(r"mp_rank_(\d+)_model_states", rank.root or "")
    if named and int(named[1]) != number:
        raise CheckpointError(
            f"{rank.path} was saved as {named[0]}.pt: files of ranks were renamed or swapped. Give each its own name "
            "again."
        )


def _require_equal_copies(ranks: Sequence[WeightFile], name: str) -> None:
    first = ranks[0].read(name).float()
    for rank in ranks[1:]:
        difference = (rank.read(name).float() - first).abs().max()
        if difference > _TOLERATED_DIFFERENCE * first.abs().max():
            raise CheckpointError(
                f"{rank.path}: {name} should be the same on all ranks, but differs from {ranks[0].path.name}. The "
                "files are of different checkpoints."
            )
