"""Checkpoints of a training run: weights, optimizer and schedule, replaced atomically."""

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
    """What a run consists of; `identity` says in words which run it is."""

    model: nn.Module
    optimizers: list[Optimizer]
    schedules: list[LRScheduler]
    identity: str


def save(state: TrainingState, folder: Path, step: int) -> None:
    """Write the run after `step` steps; a kill while writing leaves the checkpoint before."""
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
    """Continue the run of `folder`: fills `state` and returns the steps done, 0 where there is none.

    Raises:
        ValueError: the folder holds another run, or a file that is no checkpoint of one.
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
