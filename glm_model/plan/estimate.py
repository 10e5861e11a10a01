"""Estimates the memory that a workload needs on every GPU, and compares it with the memory that is there."""

from dataclasses import dataclass

import torch

from ..model.configuration import GLMConfig
from ..model.split import require_tensor_parallel
from .forward import Product, on_gpu, peak_activations
from .gpus import GPU, MIB
from .placement import Part, Split, parts_of, shared_meta_model

CUDA_CONTEXT = 512 * MIB
"""Bytes of the CUDA context and the kernels loaded into it, per process and GPU. An assumption: about 400 MiB with lazy
loading of kernels (https://github.com/pytorch/pytorch/issues/109888), 470 MiB seen on an RTX 4090, 695 MiB on an H200
(torch 2.11, cuDNN loaded too). It grows with the number of kernels in use."""

CUBLAS_WORKSPACE = 32 * MIB
"""Bytes that PyTorch gives cuBLAS as workspace on Hopper (https://github.com/pytorch/pytorch/pull/120925); on older
GPUs it is 8 MiB."""

NCCL_BUFFERS = 240 * MIB
"""Bytes of NCCL's buffers on a GPU, per process group: tensor parallel ranks are one group, pipeline stages another.
24 channels of 10 MiB each, as between A100s (https://github.com/NVIDIA/nccl/issues/1685). Without NVLink there are 2 to
4 channels."""


@dataclass(frozen=True)
class Workload:
    """A model and how it is to run.

    Attributes:
        config: the model's configuration, its quantization included.
        dtype: dtype of activations, KV cache and weights that are not packed.
        context: tokens of prompt and answer.
        batch: conversations at once.
        stored_packed: True if the checkpoint itself holds packed weights, so that no other quantization is possible.

    Raises:
        ValueError: ``context`` or ``batch`` is below 1.
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
    """The memory of one GPU; all numbers but ``layers`` are bytes.

    Attributes:
        usable: memory that CUDA offers.
        layers: number of layers of which the GPU holds all or a part.
        weights: parameters and buffers.
        cache: keys and values of a full context.
        activations: peak of all other tensors while a prompt as long as the context is computed.
        overhead: CUDA context, cuBLAS workspace and NCCL buffers; an assumption.
    """

    usable: int
    layers: int
    weights: int
    cache: int
    activations: int
    overhead: int

    @property
    def needed(self) -> int:
        """Bytes that weights, KV cache, activations and overhead need together."""
        return self.weights + self.cache + self.activations + self.overhead

    @property
    def free(self) -> int:
        """Usable bytes that are not needed; negative if the GPU is too small."""
        return self.usable - self.needed


@dataclass(frozen=True)
class Plan:
    """The memory that a workload needs on given GPUs.

    Attributes:
        workload: what runs.
        gpus: the GPUs.
        split: how the model is spread over them.
        devices: the memory of each GPU, in the order of ``gpus``.
        unplaced: bytes of weights that a device map puts into CPU memory or on the disk.
    """

    workload: Workload
    gpus: tuple[GPU, ...]
    split: Split
    devices: tuple[DevicePlan, ...]
    unplaced: int

    @property
    def fits(self) -> bool:
        """Whether all weights are on GPUs and every GPU has enough memory."""
        return not self.unplaced and all(device.free >= 0 for device in self.devices)

    @property
    def lacking(self) -> int:
        """Bytes that the fullest GPU lacks, or bytes of weights on no GPU, whichever are more; 0 if the model fits."""
        return max(self.unplaced, *(-device.free for device in self.devices), 0)


def make_plan(workload: Workload, gpus: tuple[GPU, ...], split: Split, product: Product = on_gpu) -> Plan:
    """Return the plan of a workload: the memory that it needs on every GPU.

    Args:
        workload: what runs.
        gpus: the GPUs, in the order of ranks.
        split: how the model is spread over them.
        product: stands for the kernel that multiplies packed weights; another one is for comparison with another
            device.

    Raises:
        ValueError: the number of GPUs is not the number of ranks of the split.
        UnsupportedError: the model cannot be split in this way.
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
    if not part.weights:  # the device map places nothing on this GPU
        return DevicePlan(gpu.usable, 0, 0, 0, 0, overhead)
    cache = _cache(workload, part.layers) // ranks
    return DevicePlan(gpu.usable, part.layers, part.weights, cache, activations, overhead)


def _cache(workload: Workload, layers: int) -> int:
    """Return the bytes of keys and values of a full context in ``layers`` layers, before tensor parallelism cuts them.

    A P-Tuning prefix is counted once, for all layers of the model: conversations share it and every stage holds it.
    """
    config = workload.config
    prefix = getattr(config, "pre_seq_len", None) or 0
    positions = layers * workload.batch * workload.context + config.num_layers * prefix
    return 2 * positions * config.hidden_size * workload.dtype.itemsize
