"""onnxruntime's kernel against dequantize-then-multiply in float64, where onnxruntime is installed."""

import pytest
import torch

pytest.importorskip("onnxruntime")

from glm_model.quantization.kernels import onnx
from glm_model.quantization.packing import dequantize, quantize


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 4096, 96), (3, 90, 7), (9, 258, 65), (100, 770, 37)], ids=str)
def test_it_multiplies(shape: tuple[int, int, int], bits: int, dtype: torch.dtype) -> None:
    rows, columns, outputs = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, columns, generator=generator)
    x[:, 17] *= 100
    x = x.to(dtype)
    weight, scale = quantize(torch.randn(outputs, columns, generator=generator).half(), bits)
    expected = x.double() @ dequantize(weight, scale, bits, torch.float64).T
    for matmul, bound in ((onnx.fast_matmul, 0.02), (onnx.exact_matmul, 2e-6 + torch.finfo(dtype).eps / 2)):
        result = matmul(x, weight, scale, bits)
        assert result.dtype == dtype
        assert (result.double() - expected).norm() / expected.norm() < bound
        assert matmul(x[:0], weight, scale, bits).shape == (0, outputs)


def test_a_weight_that_was_written_to_is_read_anew() -> None:
    x, (weight, scale) = torch.ones(1, 64), quantize(torch.ones(4, 64), 4)
    assert torch.allclose(onnx.fast_matmul(x, weight, scale, 4), torch.full((1, 4), 64.0), rtol=0.01)
    weight.copy_(quantize(-torch.ones(4, 64), 4)[0])
    assert torch.allclose(onnx.fast_matmul(x, weight, scale, 4), torch.full((1, 4), -64.0), rtol=0.01)


def test_what_it_holds_goes_with_the_weight() -> None:
    weight, scale = quantize(torch.ones(4, 64), 4)
    before = len(onnx._sessions)
    onnx.fast_matmul(torch.ones(1, 64), weight, scale, 4)
    assert len(onnx._sessions) == before + 1
    del weight
    assert len(onnx._sessions) == before
