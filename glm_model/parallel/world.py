"""Join the processes that torchrun has started: make their groups, and choose the device of each."""

import os
import shlex
import sys
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from transformers.utils import logging as transformers_logging

from ..errors import GLMError

# The longest wait for another rank within a step of the model; ranks may have loaded at different speeds before.
STEP_TIMEOUT = timedelta(minutes=30)
# The longest wait for the next call of rank 0, which may come at any time; `watch` notices if rank 0 has died.
WAITING_TIMEOUT = timedelta(days=365)


@dataclass(eq=False)
class World:
    """The ranks that hold one model together.

    Attributes:
        tensor: the ranks that share the layers of this rank's stage, one-dimensional.
        pipeline: the ranks that hold the same part of every stage, one-dimensional.
        control: all ranks, for messages on the CPU.
        device: the device of this rank.
    """

    tensor: DeviceMesh
    pipeline: DeviceMesh
    control: dist.ProcessGroup
    device: torch.device

    @property
    def rank(self) -> int:
        return dist.get_rank()

    @property
    def size(self) -> int:
        return dist.get_world_size()

    @property
    def has_stages(self) -> bool:
        return self.pipeline.size() > 1

    def leave(self) -> None:
        """Destroy the groups and wait for their threads; they cannot be used afterwards.

        Without this a thread that still finishes its last call when the interpreter ends would abort the process,
        because the interpreter ends such a thread in the middle of its C++ code. Dropping the last reference to
        ``control`` waits for its threads.
        """
        dist.destroy_process_group()
        del self.control


def join_world(tensor: int, pipeline: int, device: str = "auto") -> World:
    """Join the other processes; all of them must pass the same arguments.

    Args:
        tensor: the number of ranks that share every layer; their numbers are consecutive.
        pipeline: the number of stages.
        device: "auto" (the GPU of the local rank if there are enough, else the CPU), "cpu" or "cuda".

    Raises:
        GLMError: the process was not started by torchrun, or with another number of processes; or there are too few
            GPUs.
    """
    _require_processes(tensor, pipeline)
    where = _device(device)
    if where.type == "cuda":
        torch.cuda.set_device(where)
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo", timeout=STEP_TIMEOUT)
    if dist.get_rank():
        transformers_logging.disable_progress_bar()
    mesh = init_device_mesh(where.type, (pipeline, tensor), mesh_dim_names=("pipeline", "tensor"))
    control = dist.new_group(backend="gloo", timeout=WAITING_TIMEOUT)
    return World(mesh["tensor"], mesh["pipeline"], control, where)


def _require_processes(tensor: int, pipeline: int) -> None:
    for name, value in (("tensor_parallel", tensor), ("pipeline_parallel", pipeline)):
        if value < 1:
            raise GLMError(f"{name} must be at least 1, not {value}")
    needed, started = tensor * pipeline, int(os.environ.get("WORLD_SIZE", "1"))
    if needed == started:
        return
    raise GLMError(
        f"tensor_parallel {tensor} x pipeline_parallel {pipeline} needs {needed} processes, and there are {started}. "
        f"Start them with: torchrun --nproc-per-node {needed} {_this_program()}"
    )


def _this_program() -> str:
    """Return the command line for torchrun: the script or, after `python -m`, the module, with its arguments."""
    spec = sys.modules["__main__"].__spec__
    if spec is not None:
        return shlex.join(["-m", spec.name.removesuffix(".__main__"), *sys.argv[1:]])
    return shlex.join(sys.argv) if sys.argv[0].endswith(".py") else "PROGRAM"


def _device(name: str) -> torch.device:
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    gpus, wanted = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if name == "cpu" or (name == "auto" and gpus < wanted):
        return torch.device("cpu")
    if name not in ("auto", "cuda"):
        raise GLMError(f"device {name!r}: with several ranks it is auto, cpu or cuda; each takes the GPU of its number")
    if gpus < wanted:
        raise GLMError(f"{wanted} ranks on this machine need as many GPUs, and it has {gpus}: use fewer, or device cpu")
    return torch.device("cuda", local_rank)
