"""Parameters of which this process holds a part."""

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.tensor import DTensor

from ..kernels.packing import row_peaks


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that may be shared."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def peaks_of_whole_rows(part: Tensor, parameter: Tensor) -> Tensor | None:
    """The largest magnitude in each row of a float weight, over the columns of all ranks, in the dtype of ``part``.

    Args:
        part: of the weight, what this rank has read.
        parameter: that it is read for, which says how it is cut. All ranks of its mesh must call at the same point.

    Returns:
        [rows]; None if this rank has whole rows.
    """
    if not (isinstance(parameter, DTensor) and any(placement.is_shard(1) for placement in parameter.placements)):
        return None
    peak = row_peaks(part).float()
    peak = torch.where(peak.isnan(), torch.inf, peak)  # refused as infinite; a maximum may lose NaN
    dist.all_reduce(peak, dist.ReduceOp.MAX, parameter.device_mesh.get_group())
    return peak.to(part.dtype)
