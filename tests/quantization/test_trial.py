"""Kernels are tried on the same numbers, whatever dtype and device a user has made torch's defaults."""

from collections.abc import Iterator

import pytest
import torch

from glm_model.kernels import gpu, native, onnx, reference

CPU = torch.device("cpu")


@pytest.fixture(params=[torch.float16, torch.bfloat16, torch.float64], ids=str)
def _other_defaults(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("_other_defaults")
def test_the_native_kernel() -> None:
    if not native.is_usable():
        pytest.skip("no native kernel here")
    assert native._computes_as_it_should(native.found())


@pytest.mark.usefixtures("_other_defaults")
@pytest.mark.parametrize("bits", [4, 8])
def test_onnxruntime(bits: int) -> None:
    pytest.importorskip("onnxruntime")
    assert onnx._rounds_in_blocks.__wrapped__(bits)


@pytest.mark.usefixtures("_other_defaults")
def test_a_kernel_for_gpus() -> None:
    assert gpu.failure("the reference", reference.matmul, CPU, torch.float32) is None
