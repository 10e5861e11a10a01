"""Handle distributed parameters (``DTensor``), of which this process holds a part."""

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.tensor import DTensor

from ..kernels.packing import row_peaks


def local(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor that may be distributed."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def peaks_of_whole_rows(part: Tensor, parameter: Tensor) -> Tensor | None:
    """Return the largest magnitude in each row of a float weight, over the columns of all ranks.

    If the rows are cut, all ranks of the parameter's mesh must call this at the same point.

    Args:
        part: the part of the weight that this rank has read, floating [rows, columns of this rank].
        parameter: the parameter that it is read for, which says how it is cut.

    Returns:
        [rows] in the dtype of ``part``; None if this rank has whole rows.
    """
    if not (isinstance(parameter, DTensor) and any(placement.is_shard(1) for placement in parameter.placements)):
        return None
    peak = row_peaks(part).float()
    peak = torch.where(peak.isnan(), torch.inf, peak)  # a maximum over ranks may lose NaN; infinity is refused later
    dist.all_reduce(peak, dist.ReduceOp.MAX, parameter.device_mesh.get_group())
    return peak.to(part.dtype)
