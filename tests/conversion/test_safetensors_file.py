"""Files written tensor by tensor, against the library's, which has them all at once."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from glm_model.conversion.safetensors_file import SafetensorsFile


def tensors(first: str) -> dict[str, Tensor]:
    """Of every dtype, odd sizes, and names that JSON might write otherwise."""
    generator = torch.Generator().manual_seed(len(first))
    return {
        first: torch.randint(-128, 128, (3, 5), dtype=torch.int8, generator=generator),
        "half": torch.randn(7, generator=generator).half(),
        "b": torch.randn(2, 3, generator=generator).bfloat16(),
        "层": torch.randn(4, 3, generator=generator).T,
        "number": torch.tensor(2.5),
        "none": torch.empty(0, 3),
        'a "name"': torch.randn(1, 1, generator=generator).half(),
    }


def headers(content: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to("meta") for name, tensor in content.items()}


@pytest.mark.parametrize("length", range(1, 9))
def test_the_librarys_bytes(length: int, tmp_path: Path) -> None:
    """Whatever is left to fill up after the header."""
    content = tensors("x" * length)
    with SafetensorsFile(tmp_path / "made", headers(content)) as file:
        for name, tensor in content.items():
            file.write(name, tensor)
    whole = {name: tensor.contiguous() for name, tensor in content.items()}
    save_file(whole, tmp_path / "wanted", metadata={"format": "pt"})
    assert (tmp_path / "made").read_bytes() == (tmp_path / "wanted").read_bytes()


def test_a_tensor_left_out_or_of_another_kind_shows(tmp_path: Path) -> None:
    content = tensors("x")
    with pytest.raises(AssertionError, match="was not written"), SafetensorsFile(tmp_path / "made", headers(content)):
        pass
    with pytest.raises(AssertionError), SafetensorsFile(tmp_path / "made", headers(content)) as file:
        file.write("half", content["half"].float())
