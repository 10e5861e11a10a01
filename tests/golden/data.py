"""The data sets on disk, and what "equal" means. Nothing here knows the model."""

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(__file__).parent.parent / "data" / "golden"
FP32, FP16, CHAT = "chatglm_tiny_fp32", "chatglm_tiny_fp16", "chatglm_tiny_chat"
PACKED = ["chatglm_tiny_int8", "chatglm_tiny_int4", "chatglm_tiny_int4_qe"]
TUNED = ["chatglm_tiny_ptuning/prefix_projection_false", "chatglm_tiny_ptuning/prefix_projection_true"]
GLM130B = "glm130b_tiny"

# The DeepNorm factors of the two runs of every ChatGLM set, by the stem of the expected file: the original
# as it is, and with its number of layers passed on.
ALPHAS = {"expected": (2 * 28) ** 0.5, "expected_alpha_num_layers": (2 * 3) ** 0.5}


@cache
def expected(folder: str, stem: str = "expected") -> dict[str, Tensor]:
    """What the original computed; shared between tests, which must not write into it."""
    return load_file(GOLDEN / folder / f"{stem}.safetensors")


def relative_error(actual: Tensor, wanted: Tensor) -> float:
    """max |actual - wanted| over max |wanted|; infinite where a value is not finite."""
    if not torch.isfinite(actual).all():
        return float("inf")
    actual, wanted = actual.detach().double(), wanted.double()
    return ((actual - wanted).abs().max() / wanted.abs().max()).item()


def assert_close(actual: Tensor, wanted: Tensor, bound: float = 1e-5) -> None:
    assert actual.shape == wanted.shape
    error = relative_error(actual, wanted)
    assert error <= bound, f"relative error {error:.2e} is above {bound:.0e}"
