"""Cutting a model between its construction and the reading of its weights, so that each rank reads its part alone."""

from typing import Any, Self

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from transformers.distributed.tensor_parallel import ALL_PARALLEL_STYLES

from ..errors import UnsupportedError
from ..model.split import PREFIX_HEADS, require_sizes
from ..quantization.dtensor import local
from ..quantization.linear import QuantizedWeight
from ..quantization.quantizable import QuantizableModel
from . import styles
from .pipeline import Line, become_stage, send_scores
from .world import World


class ModelParallel(QuantizableModel):
    """What models in parts need: cutting, their device, counting; the base of the models of this package."""

    _parameters_of_all = 0

    def share_out(self, world: World) -> None:
        """Leave of a model on the meta device the part of this rank; its weights are to be loaded next.

        Raises:
            UnsupportedError: the model does not divide so.
        """
        require_sizes(self.config, world.tensor.size(), world.pipeline.size())
        self.tie_weights(recompute_mapping=False)  # counted once
        self._parameters_of_all = super().num_parameters()
        self.runtime.world = world
        if world.tensor.size() > 1:
            apply_plan(self, world.tensor)
        if world.pipeline.size() > 1:
            become_stage(self, world.pipeline)

    def quantize_head(self) -> Self:
        """As of a whole model; a part must have been through :func:`finish_part`."""
        if self.config.quantization_embeddings:
            return self
        super().quantize_head()
        if self.runtime.world is not None:
            _connect_head(self, self.runtime.world)
        return self

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """As in transformers; of the whole model where this rank holds a part."""
        if self.runtime.world is not None and not (only_trainable or exclude_embeddings):
            return self._parameters_of_all
        return super().num_parameters(only_trainable, exclude_embeddings)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers; a part of a model cannot be saved."""
        if self.runtime.world is not None:
            raise UnsupportedError("this rank holds a part of the model; save it from one process that loads it whole")
        super().save_pretrained(*args, **kwargs)


def apply_plan(model: Any, mesh: DeviceMesh) -> None:
    """Cut a model's parameters, and have its layers add up or gather what the ranks compute, by its ``tp_plan``."""
    plan = model.tp_plan
    for name, module in list(model.named_modules()):
        style = ALL_PARALLEL_STYLES.get(plan.get(_wildcard(name)))
        if style is not None:
            for parameter in [name for name, _ in module.named_parameters(recurse=False)]:
                style.shard_param(module, parameter, mesh)
            style.install_forward(module, mesh)


def _connect_head(model: Any, world: World) -> None:
    """Have an embedding and a head that are new in a part of a model work with those of the other ranks."""
    for name in ("model.embed_tokens", "lm_head"):
        module = model.get_submodule(name)
        if world.tensor.size() > 1 and isinstance(module, QuantizedWeight):  # else another stage has it
            ALL_PARALLEL_STYLES[model.tp_plan[name]].install_forward(module, world.tensor)
    if world.pipeline.size() > 1:
        send_scores(model, Line(world.pipeline))


def _wildcard(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def finish_part(model: Any) -> None:
    """After a part has been loaded: cut what came later, and leave nothing to be unwrapped in every pass."""
    _keep_local(model)
    encoder, mesh = model.model.prefix_encoder, model.runtime.world.tensor
    if encoder is not None and "forward" not in vars(encoder):  # put on a base model
        ALL_PARALLEL_STYLES[PREFIX_HEADS].install_forward(encoder, mesh)


def _keep_local(model: nn.Module) -> None:
    """Replace shared parameters by this rank's part for good."""
    parts: dict[int, nn.Parameter] = {}  # a tied one stays tied
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if isinstance(parameter, DTensor):
                if id(parameter) not in parts:
                    parts[id(parameter)] = nn.Parameter(local(parameter).detach(), requires_grad=False)
                setattr(module, name, parts[id(parameter)])
    model.requires_grad_(False)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of the parameters and buffers that this process holds."""
    tensors: dict[int, Tensor] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        tensors[local(tensor).data_ptr()] = local(tensor)
    return sum(tensor.nbytes for tensor in tensors.values())


styles.register()
