"""Rows that take common steps, and prompts, by themselves: what the engine has its model do."""

import time
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from glm_model.generation.requests import Insert, Step
from glm_model.generation.row_passes import RowPasses, cached_rows
from glm_model.generation.row_sampling import RowSampler
from glm_model.model.positions import derive_position_ids

_ROOM = 16  # tokens of an answer, none of which is kept
_GREEDY = RowSampler(temperature=0, top_k=0, top_p=1)


def random_prompt(model: Any, length: int) -> Tensor:
    """Return random ids [1, length] with a mask token and ``<sop>`` at the end; never the same."""
    config = model.config
    ids = torch.randint(10, min(config.vocab_size, config.gmask_token_id) - 10, (1, length))
    ids[0, -2:] = torch.tensor([config.gmask_token_id, config.bos_token_id])
    return ids


class ReadyRows:
    """Rows of one length, any number of which take a step.

    Args:
        model: the model.
        ids: the prompt of all rows, [1, length]; it is computed once.
        rows: the number of rows.
    """

    def __init__(self, model: Any, ids: Tensor, rows: int) -> None:
        self._passes = _passes(model, rows, ids.shape[1])
        self._rows = [_insert(model, ids) for _ in range(rows)]
        self._tokens = [cast(int, self._passes.execute(row)) for row in self._rows]

    def step(self, rows: int) -> list[Any]:
        """Add a token to each of the first rows, and take it back; return those that may follow."""
        steps = [Step(self._rows[row].rows, [[self._tokens[row]]], _GREEDY) for row in range(rows)]
        found = self._passes.step(steps)
        for step in steps:
            step.rows.forget(1)
        return found

    def leave(self) -> None:
        """Free the memory of the rows."""
        for row in self._rows:
            row.leave()


def prompt_seconds(model: Any, length: int) -> float:
    """Return the time from a new prompt of so many tokens to its first token."""
    passes, insert = _passes(model, 1, length), _insert(model, random_prompt(model, length))
    taken = seconds(passes.execute, insert)
    insert.leave()
    return taken


def _passes(model: Any, rows: int, length: int) -> RowPasses:
    return RowPasses(model, cached_rows(model, rows, length + _ROOM))


def _insert(model: Any, ids: Tensor) -> Insert:
    length = ids.shape[1]
    positions = derive_position_ids(model.config, ids, torch.ones_like(ids), length + _ROOM)
    return Insert(ids, length - 1, positions, _GREEDY)


def seconds(task: Callable[..., object], *arguments: object) -> float:
    """Return the wall time of one call."""
    start = time.perf_counter()
    task(*arguments)
    return time.perf_counter() - start
