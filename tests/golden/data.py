"""The data sets, and what "equal" means for them."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(__file__).parent.parent / "data" / "golden"

# The DeepNorm factors of the two runs of every ChatGLM set, by the stem of the expected file.
ALPHAS = {"expected": (2 * 28) ** 0.5, "expected_alpha_num_layers": (2 * 3) ** 0.5}


def expected(folder: str, stem: str = "expected") -> dict[str, Tensor]:
    return load_file(GOLDEN / folder / f"{stem}.safetensors")


def relative_error(actual: Tensor, wanted: Tensor) -> float:
    """max |actual - wanted| over max |wanted|; infinite if the shapes differ or a value is not finite."""
    if actual.shape != wanted.shape or not torch.isfinite(actual).all():
        return float("inf")
    actual, wanted = actual.detach().double(), wanted.double()
    return ((actual - wanted).abs().max() / wanted.abs().max()).item()


def assert_close(actual: Tensor, wanted: Tensor, bound: float = 1e-5) -> None:
    assert actual.shape == wanted.shape
    assert relative_error(actual, wanted) <= bound
