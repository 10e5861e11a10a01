"""Which tensors lie on which GPU: cut for tensor parallel ranks, dealt out to pipeline stages or by a device map.

All of it looks at a model on the meta device, so at the tensors that would be there: a packed layer has the integers,
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

# Tensor parallel styles: the dimension of a weight that the ranks share. Where it is the rows, they share scales and
# bias as well; where it is the columns, every rank has all of those.
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
    """How a model is spread: ``pipeline`` stages of ``tensor`` ranks each, or as a device map says.

    Attributes:
        tensor: ranks that share every layer.
        pipeline: stages that have some of the layers each. GPU ``stage * tensor + rank`` is a stage's rank.
        device_map: accelerate's rule; the other two are 1 then.
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
        """Raise ValueError unless it is spread over so many GPUs."""
        if not self.device_map and self.processes != count:
            raise ValueError(f"{self} takes {self.processes} GPUs; there are {count}")

    @property
    def arguments(self) -> str:
        """The same on the command line."""
        if self.device_map:
            return f"--device-map {self.device_map}"
        return f"--tensor-parallel {self.tensor} --pipeline-parallel {self.pipeline}"

    @property
    def processes(self) -> int:
        """One per GPU, but a device map is served by a single one."""
        return self.tensor * self.pipeline


@dataclass(frozen=True)
class Part:
    """What one GPU holds: bytes of weights, and for how many layers it keeps a KV cache."""

    weights: int
    layers: int


def meta_model(config: GLMConfig, dtype: torch.dtype) -> Any:
    """The model without memory, its tensors in the dtypes of :func:`glm_model.loading.load`."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    if model.model.prefix_encoder is not None:
        model.model.prefix_encoder.float()  # loading keeps it so
    return model.eval()


def shared_meta_model(config: GLMConfig, dtype: torch.dtype) -> Any:
    """As :func:`meta_model`, but made once for all plans of a model; not to be changed."""
    return _made_once(to_key(config), dtype)


@functools.lru_cache(maxsize=4)
def _made_once(key: str, dtype: torch.dtype) -> Any:
    return meta_model(from_key(key), dtype)


def cut_dimensions(model: Any) -> dict[str, int]:
    """The dimension along which tensor parallel ranks share a tensor, by name; others are whole on every rank."""
    found = {}
    for name, _ in model.named_parameters(remove_duplicate=False):
        module, _, tensor = name.rpartition(".")
        dimension = _CUTS.get(model.tp_plan.get(re.sub(r"\.\d+\.", ".*.", module), ""))
        if dimension == ROWS or (dimension == COLUMNS and tensor == "weight"):
            found[name] = dimension
    return found


def cut(model: Any, ranks: int) -> None:
    """Shrink a model on the meta device to what one of ``ranks`` tensor parallel ranks holds."""
    dimensions = cut_dimensions(model)
    for name, parameter in model.named_parameters():
        if name in dimensions and ranks > 1:
            shape = list(parameter.shape)
            shape[dimensions[name]] //= ranks
            parameter.data = parameter.data.new_empty(shape)


def default_split(config: GLMConfig, gpus: int) -> Split:
    """Tensor parallel over all GPUs, the fastest, if the model divides so; otherwise a pipeline."""
    try:
        require_tensor_parallel(config, gpus)
    except UnsupportedError:
        return Split(pipeline=gpus)
    return Split(tensor=gpus)


def parts_of(model: Any, split: Split, usable: Sequence[int]) -> tuple[list[Part], int]:
    """What every GPU holds, and the bytes of weights for which no GPU has room.

    Args:
        model: the whole one, on the meta device.
        usable: bytes on every GPU, for a device map, which fills them.

    Raises:
        UnsupportedError: more stages than layers.
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
    """The stages that hold a tensor: a layer's, the first, which has the head too, the last, or all."""
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
    """As ``from_pretrained(device_map=rule)`` makes it."""
    whole = {"no_split_module_classes": list(model._no_split_modules)}
    memory: Any = dict(enumerate(usable))
    accelerate = logging.getLogger("accelerate.utils.modeling")
    level = accelerate.level
    accelerate.setLevel(logging.ERROR)  # the GPUs that are planned for need not be in this machine
    try:
        if rule == "sequential":
            memory = get_max_memory(memory)
        else:
            memory = get_balanced_memory(model, max_memory=memory, low_zero=rule == "balanced_low_0", **whole)
        return infer_auto_device_map(model, max_memory=memory, **whole)
    finally:
        accelerate.setLevel(level)


def _place(places: dict[str, Any], name: str) -> Any:
    """The device of a tensor or module: that of the innermost module around it that the map names."""
    while name not in places:
        name, _, _ = name.rpartition(".")
    return places[name]


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that takes memory once; a tied head is part of the embedding."""
    yield from model.named_parameters()
    yield from model.named_buffers()
