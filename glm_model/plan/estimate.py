"""How much memory every GPU needs, and whether it has it."""

from dataclasses import dataclass

import torch

from ..model.configuration import GLMConfig
from ..model.split import require_tensor_parallel
from .forward import Product, on_gpu, peak_activations
from .gpus import GPU, MIB
from .placement import Part, Split, parts_of, shared_meta_model

CUDA_CONTEXT = 512 * MIB
"""The driver's context and the kernels loaded into it, per process and GPU: about 400 MiB with lazy loading of kernels
(https://github.com/pytorch/pytorch/issues/109888), 470 MiB seen on an RTX 4090, 695 MiB on an H200 (torch 2.11, cuDNN
loaded too); it grows with the kernels in use."""

CUBLAS_WORKSPACE = 32 * MIB
"""What PyTorch gives it on Hopper (https://github.com/pytorch/pytorch/pull/120925); 8 MiB before."""

NCCL_BUFFERS = 240 * MIB
"""For each group of GPUs that talk: those that share layers, those that form a pipeline. 24 channels, as many as A100s
have among them, of 10 MiB each (https://github.com/NVIDIA/nccl/issues/1685). Without NVLink there are 2 to 4."""


@dataclass(frozen=True)
class Workload:
    """What shall run.

    Attributes:
        config: of the model, its quantization included.
        dtype: of activations, KV cache and whatever is not packed.
        context: tokens of prompt and answer.
        batch: conversations at once.
        stored_packed: whether the checkpoint itself holds packed weights, so that no other quantization is possible.

    Raises:
        ValueError: no token or no conversation.
    """

    config: GLMConfig
    dtype: torch.dtype = torch.float16
    context: int = 2048
    batch: int = 1
    stored_packed: bool = False

    def __post_init__(self) -> None:
        for name in ("context", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True)
class DevicePlan:
    """One GPU; all numbers are bytes but ``layers``.

    Attributes:
        usable: what CUDA offers.
        layers: how many layers, or parts of them, it holds.
        weights: parameters and buffers.
        cache: keys and values of a full context.
        activations: the most that a prompt of the whole context needs besides.
        overhead: CUDA context, workspace and buffers of communication; an assumption.
    """

    usable: int
    layers: int
    weights: int
    cache: int
    activations: int
    overhead: int

    @property
    def needed(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.activations + self.overhead

    @property
    def free(self) -> int:
        """What is left; negative where the GPU is too small."""
        return self.usable - self.needed


@dataclass(frozen=True)
class Plan:
    """A workload on GPUs.

    Attributes:
        devices: one per GPU.
        unplaced: bytes of weights that a device map leaves to CPU memory or disk.
    """

    workload: Workload
    gpus: tuple[GPU, ...]
    split: Split
    devices: tuple[DevicePlan, ...]
    unplaced: int

    @property
    def fits(self) -> bool:
        """Whether everything lies on a GPU that is large enough."""
        return not self.unplaced and all(device.free >= 0 for device in self.devices)

    @property
    def lacking(self) -> int:
        """Bytes that the worst GPU lacks, or that no GPU takes; 0 if it fits."""
        return max(self.unplaced, *(-device.free for device in self.devices), 0)


def make_plan(workload: Workload, gpus: tuple[GPU, ...], split: Split, product: Product = on_gpu) -> Plan:
    """The memory of every GPU.

    Args:
        product: how packed weights are multiplied; for a comparison with another device.

    Raises:
        ValueError: another number of GPUs than the split has ranks.
        UnsupportedError: the model cannot be split so.
    """
    config = workload.config
    split.require_gpus(len(gpus))
    require_tensor_parallel(config, split.tensor)
    model = shared_meta_model(config, workload.dtype)
    groups = (split.tensor > 1) + (split.pipeline > 1)
    overhead = CUDA_CONTEXT + CUBLAS_WORKSPACE + groups * NCCL_BUFFERS
    parts, unplaced = parts_of(model, split, [gpu.usable - CUDA_CONTEXT for gpu in gpus])
    shape = (split.tensor, workload.batch, workload.context)
    activations = peak_activations(config, workload.dtype, *shape, product)
    devices = [
        _device(part, gpu, workload, split.tensor, activations, overhead) for part, gpu in zip(parts, gpus, strict=True)
    ]
    return Plan(workload, gpus, split, tuple(devices), unplaced)


def _device(part: Part, gpu: GPU, workload: Workload, ranks: int, activations: int, overhead: int) -> DevicePlan:
    if not part.weights:  # a device map left it empty
        return DevicePlan(gpu.usable, 0, 0, 0, 0, overhead)
    cache = _cache(workload, part.layers) // ranks
    return DevicePlan(gpu.usable, part.layers, part.weights, cache, activations, overhead)


def _cache(workload: Workload, layers: int) -> int:
    """Bytes of keys and values for a full context, and of a P-Tuning prefix, which conversations and stages share."""
    config = workload.config
    prefix = getattr(config, "pre_seq_len", None) or 0
    positions = layers * workload.batch * workload.context + config.num_layers * prefix
    return 2 * positions * config.hidden_size * workload.dtype.itemsize
