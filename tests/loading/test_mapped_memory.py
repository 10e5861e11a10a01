"""Mapped weights are brought in at once: the same values, and no page faults when they are used."""

import resource
from pathlib import Path

import pytest
import torch

from glm_model import mapped_memory
from glm_model.mapped_memory import populate

PAGES = 4096


@pytest.fixture
def mapped(tmp_path: Path) -> torch.Tensor:
    file = tmp_path / "weights"
    file.write_bytes(bytes(range(256)) * 16 * PAGES)
    return torch.from_file(str(file), shared=False, size=4096 * PAGES, dtype=torch.uint8)[100:]


def faults_of_use(tensor: torch.Tensor) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensor[::4096].max()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_no_faults_are_left(mapped: torch.Tensor) -> None:
    if not populate([mapped]):
        pytest.skip("this system does not populate mapped memory on request")
    assert faults_of_use(mapped) < PAGES // 16 // 4  # a fault brings in 16 pages at most by default
    assert torch.equal(mapped[:512], torch.arange(100, 612).remainder(256).to(torch.uint8))


def test_what_does_not_fit_is_left_alone(mapped: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_memory, "_available", lambda: mapped.nbytes // 2)
    assert not populate([mapped])


def test_tensors_that_are_nowhere() -> None:
    populate([torch.empty(3, device="meta"), torch.empty(0)])
