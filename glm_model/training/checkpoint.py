"""Writes and reads checkpoints of a training run: weights, optimizers and schedules, replaced atomically."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

_FILE = "training.pt"
_KEYS = {"identity", "step", "model", "optimizers", "schedules"}


@dataclass
class TrainingState:
    """The state of a run that a checkpoint holds.

    Attributes:
        model: the model being trained.
        optimizers: the optimizers of its weights.
        schedules: a learning rate schedule for each optimizer.
        identity: a text that is equal for runs of the same model, examples and options.
    """

    model: nn.Module
    optimizers: list[Optimizer]
    schedules: list[LRScheduler]
    identity: str


def save(state: TrainingState, folder: Path, step: int) -> None:
    """Write the state after `step` steps into `folder`; if the process is killed, the previous checkpoint remains."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{_FILE}.unfinished"
    torch.save(
        {
            "identity": state.identity,
            "step": step,
            "model": state.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in state.optimizers],
            "schedules": [schedule.state_dict() for schedule in state.schedules],
        },
        unfinished,
    )
    unfinished.replace(folder / _FILE)


def load_latest(state: TrainingState, folder: Path) -> int:
    """Load the checkpoint of `folder` into `state` and return the number of steps done; 0 if there is no checkpoint.

    Raises:
        ValueError: the folder holds the checkpoint of another run, or a file that is not a checkpoint.
    """
    path = folder / _FILE
    if not path.exists():
        return 0
    saved = _read(path)
    if saved["identity"] != state.identity:
        raise ValueError(
            f"{path} belongs to another run ({saved['identity']}; this one: {state.identity}). "
            "Remove the folder to start anew, or name another."
        )
    state.model.load_state_dict(saved["model"])
    for optimizer, values in zip(state.optimizers, saved["optimizers"], strict=True):
        optimizer.load_state_dict(values)
    for schedule, values in zip(state.schedules, saved["schedules"], strict=True):
        schedule.load_state_dict(values)
    return int(saved["step"])


def _read(path: Path) -> dict[str, Any]:
    try:
        saved = torch.load(path, weights_only=True)
    except PermissionError:
        raise
    except Exception:  # a damaged file may make the reader raise anything
        saved = None
    if not isinstance(saved, dict) or not saved.keys() >= _KEYS:
        raise ValueError(f"{path} is truncated, damaged or no checkpoint of a run. Remove it to start anew.")
    return saved
