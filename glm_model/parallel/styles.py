"""Register the tensor parallel styles that transformers lacks with its own.

- GeGLU's two halves: transformers' ``packed_colwise`` cuts both halves of the weight, but the bias as one piece.
- Packed integers cut by columns: their row scales and bias are whole on every rank. (Cut by rows, they need only
  transformers' ``colwise``.)
- A vocabulary cut for an embedding that may be packed.
- A P-Tuning prefix, whose heads follow those of the attention.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import Placement, _StridedShard
from transformers.distributed.tensor_parallel import (
    ALL_PARALLEL_STYLES,
    ColwiseParallel,
    RowwiseParallel,
    TensorParallelLayer,
)

from ..model.split import COLWISE_HALVES, PACKED_ROWWISE, PREFIX_HEADS, VOCABULARY
from ..quantization.dtensor import local


class _SumOverRanks(torch.autograd.Function):
    """In-place sum of a tensor over the ranks of a group; the backward pass gives each rank the sum's gradient."""

    @staticmethod
    def forward(context: Any, part: Tensor, group: dist.ProcessGroup) -> Tensor:
        context.mark_dirty(part)
        dist.all_reduce(part, dist.ReduceOp.SUM, group)
        return part

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def _sum_over_ranks(part: Tensor, mesh: DeviceMesh) -> Tensor:
    """Return the sum of a tensor over the ranks; the tensor is overwritten, so the caller may not use it again."""
    total: Tensor = _SumOverRanks.apply(part.contiguous(), mesh.get_group())
    return total


def _cut(module: nn.Module, name: str, mesh: DeviceMesh, placement: Placement) -> None:
    """Turn a parameter on the meta device into a distributed one, of which this rank will hold a part."""
    whole = getattr(module, name, None)
    if whole is not None:
        part = distribute_tensor(whole, mesh, [placement], src_data_rank=None)
        setattr(module, name, nn.Parameter(part, requires_grad=whole.requires_grad))


class ColwiseHalves(ColwiseParallel):
    """Column cut of each half (x1, x2) of the output by itself: a rank computes its part of x1 and its part of x2."""

    def should_use_local_tensors(self, module: nn.Module) -> bool:
        return True

    def shard_param(self, module: nn.Module, param: str, mesh: DeviceMesh) -> None:
        _cut(module, param, mesh, _StridedShard(dim=0, split_factor=2))


class PackedRowwise(RowwiseParallel):
    """Row cut of packed integers: each rank multiplies its columns; the bias is added once, to the sum."""

    def should_use_local_tensors(self, module: nn.Module) -> bool:
        return True

    def shard_param(self, module: nn.Module, param: str, mesh: DeviceMesh) -> None:
        _cut(module, param, mesh, Shard(1) if param == "weight" else Replicate())

    def transform_output_post_forward(self, module: Any, output: Tensor, mesh: DeviceMesh) -> Tensor:
        output = _sum_over_ranks(output, mesh)
        return output if module.bias is None else output + local(module.bias)


class Vocabulary(TensorParallelLayer):
    """Cut of an embedding by its rows: a rank returns zeros for ids of other ranks, and the results are added up."""

    def should_use_local_tensors(self, module: nn.Module) -> bool:
        return True

    def shard_param(self, module: nn.Module, param: str, mesh: DeviceMesh) -> None:
        _cut(module, param, mesh, Shard(0))

    def install_forward(self, module: Any, mesh: DeviceMesh) -> Any:
        look_up = module.forward
        rows = module.num_embeddings // mesh.size()
        first = rows * mesh.get_local_rank()

        def forward(input_ids: Tensor) -> Tensor:
            own = input_ids - first
            is_elsewhere = (own < 0) | (own >= rows)
            with self.context_around_forward(module, mesh):
                states = look_up(own.masked_fill(is_elsewhere, 0))
            return _sum_over_ranks(states.masked_fill(is_elsewhere[..., None], 0), mesh)

        module.forward = forward
        return module


class PrefixHeads(TensorParallelLayer):
    """Style of a prefix encoder, which is whole on every rank and returns the keys and values of this rank's heads."""

    def transform_output_post_forward(self, module: nn.Module, output: Tensor, mesh: DeviceMesh) -> Tensor:
        return output.chunk(mesh.size(), dim=2)[mesh.get_local_rank()]


def register() -> None:
    """Register the styles by their names, for use in transformers' plans."""
    if torch.distributed.is_available():
        styles = {COLWISE_HALVES: ColwiseHalves(), PACKED_ROWWISE: PackedRowwise(), VOCABULARY: Vocabulary()}
        for name, style in {**styles, PREFIX_HEADS: PrefixHeads()}.items():
            ALL_PARALLEL_STYLES.register(name, style)
