"""Cut a model after its construction and before its weights are read, so that each rank reads only its own part."""

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
    """Base of this package's models that lets a rank hold a part of a model: cutting, counting, refusing to save."""

    _parameters_of_all = 0

    def share_out(self, world: World) -> None:
        """Reduce a model on the meta device to the part of this rank; its weights are loaded afterwards.

        Raises:
            UnsupportedError: the model cannot be divided by these numbers of ranks and stages.
        """
        require_sizes(self.config, world.tensor.size(), world.pipeline.size())
        self.tie_weights(recompute_mapping=False)  # so that a tied weight is counted once
        self._parameters_of_all = super().num_parameters()
        self.runtime.world = world
        if world.tensor.size() > 1:
            apply_plan(self, world.tensor)
        if world.pipeline.size() > 1:
            become_stage(self, world.pipeline)

    def quantize_head(self) -> Self:
        """Pack the embedding and the head in place, as of a whole model; a part needs :func:`finish_part` before."""
        if self.config.quantization_embeddings:
            return self
        super().quantize_head()
        if self.runtime.world is not None:
            _connect_head(self, self.runtime.world)
        return self

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Return the number of parameters as in transformers; that of the whole model if this rank holds a part."""
        if self.runtime.world is not None and not (only_trainable or exclude_embeddings):
            return self._parameters_of_all
        return super().num_parameters(only_trainable, exclude_embeddings)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Save the model as transformers does.

        Raises:
            UnsupportedError: this rank holds a part of the model.
        """
        if self.runtime.world is not None:
            raise UnsupportedError("this rank holds a part of the model; save it from one process that loads it whole")
        super().save_pretrained(*args, **kwargs)


def apply_plan(model: Any, mesh: DeviceMesh) -> None:
    """Cut a model's parameters by its ``tp_plan``, and make its layers add up or gather the results of the ranks."""
    plan = model.tp_plan
    for name, module in list(model.named_modules()):
        style = ALL_PARALLEL_STYLES.get(plan.get(_wildcard(name)))
        if style is not None:
            for parameter in [name for name, _ in module.named_parameters(recurse=False)]:
                style.shard_param(module, parameter, mesh)
            style.install_forward(module, mesh)


def _connect_head(model: Any, world: World) -> None:
    """Connect a replaced embedding and head of a part of a model with those of the other ranks."""
    for name in ("model.embed_tokens", "lm_head"):
        module = model.get_submodule(name)
        if world.tensor.size() > 1 and isinstance(module, QuantizedWeight):  # else another stage has it
            ALL_PARALLEL_STYLES[model.tp_plan[name]].install_forward(module, world.tensor)
    if world.pipeline.size() > 1:
        send_scores(model, Line(world.pipeline))


def _wildcard(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def finish_part(model: Any) -> None:
    """Prepare a loaded part for its forward passes: unwrap its parameters, and cut a prefix encoder added later.

    Args:
        model: a part of a model, with its weights.
    """
    _keep_local(model)
    encoder, mesh = model.model.prefix, model.runtime.world.tensor
    if encoder is not None and "forward" not in vars(encoder):  # added to a base model after it was cut
        ALL_PARALLEL_STYLES[PREFIX_HEADS].install_forward(encoder, mesh)


def _keep_local(model: nn.Module) -> None:
    """Replace distributed parameters (``DTensor``) permanently by this rank's part, and freeze the model."""
    parts: dict[int, nn.Parameter] = {}  # a tied one stays tied
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if isinstance(parameter, DTensor):
                if id(parameter) not in parts:
                    parts[id(parameter)] = nn.Parameter(local(parameter).detach(), requires_grad=False)
                setattr(module, name, parts[id(parameter)])
    model.requires_grad_(False)


def weight_bytes(model: nn.Module) -> int:
    """Return the bytes of the parameters and buffers that this process holds."""
    tensors: dict[int, Tensor] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        tensors[local(tensor).data_ptr()] = local(tensor)
    return sum(tensor.nbytes for tensor in tensors.values())


styles.register()
