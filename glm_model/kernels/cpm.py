"""Products on a GPU with the package cpm-kernels, which the published code used: for GPUs that Triton does not know.

The package holds machine code for GPUs of compute capability 6.1 to 8.6. The published code sent more through its
launcher, the code that unpacks INT4; that came with each checkpoint, and code of checkpoints is not run here. Of the
package's own kernels one dequantizes, but for the unpacking: ``cu_gemm_scale_x`` multiplies each row of an int32 matrix
by a half scale, in float32, rounded once to half. So PyTorch unpacks, and the GPU's library multiplies.
"""

import functools
import importlib.util

import torch
from torch import Tensor

from . import dispatch, gpu
from .choice import allowed
from .packing import unpack

# Of each major compute capability the oldest minor one in cpm-kernels 1.0.11, the last release: it holds 6.1, 6.2, 7.0,
# 7.2, 7.5, 8.0 and 8.6, and no PTX. Code for 8.6 runs on 8.7 and 8.9 too; none runs on another major one.
_OLDEST_MINOR = {6: 1, 7: 0, 8: 0}

_MOST_ROWS = 65535  # of one launch: it starts a block of threads for each, and the GPU counts them in 16 bits
_BLOCK = 1 << 22  # integers in 32 bits that exist at once


def supports(x: Tensor, weight: Tensor, scale: Tensor, bits: int) -> bool:
    """Return whether it takes them: float16 with float16 scales, on a GPU that the package has code for.

    The first call on each GPU tries the package.
    """
    return (
        x.is_cuda
        and allowed("cpm_kernels")
        and x.dtype == scale.dtype == torch.float16
        and weight.numel() > 0
        and scale.is_contiguous()
        and problem(x.device) is None
    )


@functools.cache
def problem(device: torch.device) -> str | None:
    """Return why the package does not multiply on this GPU, or None if it does; found out once."""
    major, minor = torch.cuda.get_device_capability(device)
    if not has_code_for(major, minor):
        return f"cpm-kernels has no code for compute capability {major}.{minor}"
    if importlib.util.find_spec("cpm_kernels") is None:
        return "cpm-kernels is not installed"
    if importlib.util.find_spec("pkg_resources") is None:
        return "cpm-kernels needs setuptools older than 82"
    return gpu.failure("cpm-kernels", matmul, device, torch.float16)


def has_code_for(major: int, minor: int) -> bool:
    """Return whether the package's code runs on GPUs of this compute capability."""
    return major in _OLDEST_MINOR and minor >= _OLDEST_MINOR[major]


def matmul(x: Tensor, weight: Tensor, scale: Tensor, bits: int, bias: Tensor | None = None) -> Tensor:
    """Return ``x @ (integers * scale).T + bias`` in float16; see :func:`.dispatch.quantized_matmul`."""
    with torch.cuda.device_of(x):
        return gpu.multiply_dequantized(x.detach(), weight, scale, bits, bias, dequantize)


def dequantize(packed: Tensor, scale: Tensor, bits: int, dtype: torch.dtype = torch.float16) -> Tensor:
    """Return what :func:`glm_model.kernels.packing.dequantize` returns; float16 only.

    Args:
        packed: int8 [rows, columns * bits / 8].
        scale: float16 [rows], contiguous.
    """
    assert dtype == scale.dtype == torch.float16, "called without asking `supports`"
    from cpm_kernels.kernels import gemm_scale_x

    rows, columns = len(packed), packed.shape[1] * 8 // bits
    out = torch.empty(rows, columns, dtype=torch.float16, device=packed.device)
    stream = torch.cuda.current_stream().cuda_stream
    step = max(1, min(_MOST_ROWS, _BLOCK // columns))
    for start in range(0, rows, step):
        part, part_scale = out[start : start + step], scale[start : start + step]
        integers = unpack(packed[start : start + step], bits).int()
        gemm_scale_x(1, *part.shape, integers.data_ptr(), part_scale.data_ptr(), part.data_ptr(), stream)
    return out


dispatch.register(
    dispatch.Backend(
        "cpm_kernels",
        "cuda",
        (dispatch.Kernel("cpm_kernels", "exact", supports, matmul),),
        lambda device: problem(device),  # by its name, so that tests can put another in its place
        gpu.describe("cpm_kernels"),
    )
)
