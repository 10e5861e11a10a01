"""Computes which tensors lie on which GPU: by tensor parallel ranks, by pipeline stages, or by a device map.

It counts the tensors of a model on the meta device, which takes no memory. A packed layer there has the integers,
scales and bias of :class:`~glm_model.quantization.linear.QuantizedLinear`.
"""

import functools
import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.integrations.accelerate import get_balanced_memory, get_max_memory, infer_auto_device_map

from ..errors import UnsupportedError
from ..model.configuration import GLMConfig
from ..model.split import COLWISE_HALVES, PACKED_ROWWISE, VOCABULARY, require_tensor_parallel, stage_layers
from ..options import DeviceMap
from .models import from_key, to_key

# The dimension along which each tensor parallel style cuts a weight. Ranks that cut the rows also cut scales and bias;
# ranks that cut the columns each hold all scales and the whole bias.
ROWS, COLUMNS = 0, 1
_CUTS = {
    "colwise": ROWS,
    "colwise_gather_output": ROWS,
    COLWISE_HALVES: ROWS,
    VOCABULARY: ROWS,
    "rowwise": COLUMNS,
    PACKED_ROWWISE: COLUMNS,
}


@dataclass(frozen=True)
class Split:
    """How a model is spread over GPUs: ``pipeline`` stages of ``tensor`` ranks each, or by a device map.

    Attributes:
        tensor: ranks that share every layer.
        pipeline: stages that hold some of the layers each. GPU ``stage * tensor + rank`` is the rank of a stage.
        device_map: accelerate's rule for a device map; ``tensor`` and ``pipeline`` are 1 then.
    """

    tensor: int = 1
    pipeline: int = 1
    device_map: DeviceMap | None = None

    def __str__(self) -> str:
        if self.device_map:
            return f"device map {self.device_map}"
        parts = [f"tensor parallel {self.tensor}"] * (self.tensor > 1)
        parts += [f"pipeline parallel {self.pipeline}"] * (self.pipeline > 1)
        return ", ".join(parts) or "one GPU"

    def require_gpus(self, count: int) -> None:
        """Raise ValueError unless the split takes ``count`` GPUs; a device map takes any number."""
        if not self.device_map and self.processes != count:
            raise ValueError(f"{self} takes {self.processes} GPUs; there are {count}")

    @property
    def arguments(self) -> str:
        """The command-line arguments that name this split."""
        if self.device_map:
            return f"--device-map {self.device_map}"
        return f"--tensor-parallel {self.tensor} --pipeline-parallel {self.pipeline}"

    @property
    def processes(self) -> int:
        """The number of processes: one per GPU, or a single one for a device map."""
        return self.tensor * self.pipeline


@dataclass(frozen=True)
class Part:
    """The part of a model that one GPU holds.

    Attributes:
        weights: bytes of parameters and buffers.
        layers: number of layers whose KV cache it holds.
    """

    weights: int
    layers: int


def meta_model(config: GLMConfig, dtype: torch.dtype) -> Any:
    """Return the model on the meta device, its tensors in the dtypes of :func:`glm_model.loading.load`."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.to(dtype)  # as loading does
    return model.eval()


def shared_meta_model(config: GLMConfig, dtype: torch.dtype) -> Any:
    """Return the model of :func:`meta_model`, made once for all plans; the caller must not change it."""
    return _cached_meta_model(to_key(config), dtype)


@functools.lru_cache(maxsize=4)
def _cached_meta_model(key: str, dtype: torch.dtype) -> Any:
    return meta_model(from_key(key), dtype)


def cut_dimensions(model: Any) -> dict[str, int]:
    """Return, by name, the dimension along which tensor parallel ranks cut each tensor; others are whole on each."""
    found = {}
    for name, _ in model.named_parameters(remove_duplicate=False):
        module, _, tensor = name.rpartition(".")
        dimension = _CUTS.get(model.tp_plan.get(re.sub(r"\.\d+\.", ".*.", module), ""))
        if dimension == ROWS or (dimension == COLUMNS and tensor == "weight"):
            found[name] = dimension
    return found


def cut(model: Any, ranks: int) -> None:
    """Shrink a model on the meta device, in place, to the part that one of ``ranks`` tensor parallel ranks holds."""
    dimensions = cut_dimensions(model)
    for name, parameter in model.named_parameters():
        if name in dimensions and ranks > 1:
            shape = list(parameter.shape)
            shape[dimensions[name]] //= ranks
            parameter.data = parameter.data.new_empty(shape)


def default_split(config: GLMConfig, gpus: int) -> Split:
    """Return tensor parallelism over all GPUs, the fastest, if the model divides by their number; else a pipeline."""
    try:
        require_tensor_parallel(config, gpus)
    except UnsupportedError:
        return Split(pipeline=gpus)
    return Split(tensor=gpus)


def parts_of(model: Any, split: Split, usable: Sequence[int]) -> tuple[list[Part], int]:
    """Return the part that every GPU holds, and the bytes of weights for which no GPU has room.

    Args:
        model: the whole model, on the meta device.
        split: how the model is spread.
        usable: usable bytes of every GPU; only a device map depends on them.

    Raises:
        UnsupportedError: there are more stages than layers.
    """
    if split.device_map:
        return _parts_of_map(model, split.device_map, usable)
    stages = _stages(model, split.pipeline, split.tensor)
    return [stage for stage in stages for _ in range(split.tensor)], 0


def _stages(model: Any, stages: int, ranks: int) -> list[Part]:
    float_bits = 8 * model.dtype.itemsize
    stage_of_layer = {
        layer: stage for stage, held in enumerate(stage_layers(model.config, stages, float_bits)) for layer in held
    }
    dimensions = cut_dimensions(model)
    weights = [0] * stages
    for name, tensor in _tensors(model):
        size = tensor.nbytes // ranks if name in dimensions else tensor.nbytes
        for stage in _stages_with(name, stage_of_layer, stages):
            weights[stage] += size
    layers = list(stage_of_layer.values())
    return [Part(held, layers.count(stage)) for stage, held in enumerate(weights)]


def _stages_with(name: str, stage_of_layer: dict[int, int], stages: int) -> Sequence[int]:
    """Return the stages that hold a tensor.

    A layer is on its own stage, embedding and head on the first, the final LayerNorm on the last, all else on every
    stage.
    """
    if name.startswith("model.layers."):
        return (stage_of_layer[int(name.split(".")[2])],)
    if name.startswith(("model.embed_tokens.", "lm_head.")):
        return (0,)
    return (stages - 1,) if name.startswith("model.norm.") else range(stages)


def _parts_of_map(model: Any, rule: DeviceMap, usable: Sequence[int]) -> tuple[list[Part], int]:
    places = _device_map(model, rule, usable)
    weights: defaultdict[Any, int] = defaultdict(int)
    for name, tensor in _tensors(model):
        weights[_place(places, name)] += tensor.nbytes
    layers = [_place(places, f"model.layers.{layer}") for layer in range(model.config.num_layers)]
    parts = [Part(weights.pop(gpu, 0), layers.count(gpu)) for gpu in range(len(usable))]
    return parts, sum(weights.values())


def _device_map(model: Any, rule: DeviceMap, usable: Sequence[int]) -> dict[str, Any]:
    """Return the device map that ``from_pretrained(device_map=rule)`` makes on GPUs with so many usable bytes."""
    whole = {"no_split_module_classes": list(model._no_split_modules)}
    memory: Any = dict(enumerate(usable))
    accelerate = logging.getLogger("accelerate.utils.modeling")
    level = accelerate.level
    accelerate.setLevel(logging.ERROR)  # accelerate warns of GPUs that this machine does not have
    try:
        if rule == "sequential":
            memory = get_max_memory(memory)
        else:
            memory = get_balanced_memory(model, max_memory=memory, low_zero=rule == "balanced_low_0", **whole)
        return infer_auto_device_map(model, max_memory=memory, **whole)
    finally:
        accelerate.setLevel(level)


def _place(places: dict[str, Any], name: str) -> Any:
    """Return the device of a tensor or module: that of the innermost enclosing module that the map names."""
    while name not in places:
        name, _, _ = name.rpartition(".")
    return places[name]


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield name and tensor of every parameter and buffer; a head tied to the embedding is not repeated."""
    yield from model.named_parameters()
    yield from model.named_buffers()
