"""Predictions beside what a rank really loads and allocates; the other ranks are there in name alone.

torch's fake process group lets one process be any rank of many: what others would send is whatever lies in memory.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoModelForCausalLM

from benchmarks.plan import peak_of, prompt, step
from glm_model.checkpoint.reading import shared_over
from glm_model.kernels import dispatch
from glm_model.model.configuration import GLMConfig
from glm_model.parallel.distribute import finish_part, weight_bytes
from glm_model.parallel.world import World
from glm_model.plan.estimate import Workload, make_plan
from glm_model.plan.forward import by_reference
from glm_model.plan.gpus import GPU
from glm_model.plan.placement import Split
from tests.plan.shapes import ARCHITECTURES, small

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(dispatch, "_KERNELS", [dispatch.REFERENCE])
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def part_of(config: GLMConfig, split: Split, rank: int, folder: Path) -> Any:
    """What a rank holds of a model with random weights."""
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    dist.init_process_group("fake", rank=rank, world_size=split.processes, store=FakeStore())
    assert dist.group.WORLD is not None
    mesh = init_device_mesh("cpu", (split.pipeline, split.tensor), mesh_dim_names=("pipeline", "tensor"))
    world = World(mesh["tensor"], mesh["pipeline"], dist.group.WORLD, CPU)
    with shared_over(world):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    finish_part(model)
    return model.eval()


@pytest.mark.parametrize(("split", "rank"), [(Split(tensor=4), 0), (Split(2, 2), 0), (Split(pipeline=2), 1)], ids=str)
@pytest.mark.parametrize("bits", [0, 4])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_rank(architecture: str, bits: int, split: Split, rank: int, tmp_path: Path) -> None:
    config = small(architecture, quantization_bit=bits, num_layers=8)
    workload = Workload(config, torch.float32, context=300, batch=2)
    device = make_plan(workload, (GPU(1 << 40),) * split.processes, split, by_reference).devices[rank]
    model = part_of(config, split, rank, tmp_path)
    with torch.no_grad():
        (_, cache), peak = peak_of(lambda: step(model, prompt(workload, CPU), None), CPU)
    cached = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert device.weights == weight_bytes(model)
    assert device.cache == cached
    assert peak - cached == pytest.approx(device.activations, rel=0.03)


def test_a_rank_with_a_prefix(tmp_path: Path) -> None:
    config = small("chatglm", pre_seq_len=9)
    workload = Workload(config, torch.float32, context=300, batch=2)
    device = make_plan(workload, (GPU(1 << 40),) * 2, Split(tensor=2)).devices[0]
    model = part_of(config, Split(tensor=2), 0, tmp_path)
    with torch.no_grad():
        (_, cache), peak = peak_of(lambda: step(model, prompt(workload, CPU), None), CPU)
    cached = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert device.weights == weight_bytes(model)
    with torch.no_grad():
        assert device.cache == cached + model.model.prefix_encoder(torch.float32, 2).nbytes
    assert peak - device.cache == pytest.approx(device.activations, rel=0.03)
