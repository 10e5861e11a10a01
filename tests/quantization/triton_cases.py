"""The Triton kernels on a CPU, in Triton's interpreter; test_triton.py runs this in a process of its own.

It needs TRITON_INTERPRET=1 before Triton is imported: what is imported with it can no longer compile, and without it
nothing can be interpreted.
"""

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import triton.language as tl
from torch import Tensor
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle, _convert_float

from benchmarks import gpu_quantized_matmul
from glm_model.kernels import gpu, reference, triton_backend, triton_dequantize, triton_fused
from glm_model.kernels.packing import dequantize, quantize
from tests.quantization.rounding import dequantized

# Of the whole product, by norm. The interpreter cuts off the digits that bfloat16 lacks, where a GPU rounds.
BOUND = {torch.float16: 5e-4, torch.bfloat16: 6e-3}
ROWS = [1, 2, 7, 16, 17, 64, 65, 300]


@pytest.fixture(autouse=True)
def dot_product_of_bfloat16(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The interpreter holds bfloat16 as its bits, and its dot product would multiply those."""
    original = InterpreterBuilder.create_dot

    def widened(handle: TensorHandle) -> TensorHandle:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return TensorHandle(_convert_float(handle.data, tl.bfloat16, tl.float32, None).view(np.float32), tl.float32)

    def create_dot(self: InterpreterBuilder, a: TensorHandle, b: TensorHandle, *others: object) -> TensorHandle:
        return original(self, widened(a), widened(b), *others)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)
    return iter([None])


def drawn(
    rows: int, columns: int, outputs: int, bits: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Activations, packed weight, scales, bias."""
    generator = torch.Generator().manual_seed(rows + columns + outputs + bits)
    x = torch.randn(rows, columns, generator=generator).to(dtype)
    weight, scale = quantize(torch.randn(outputs, columns, generator=generator), bits)
    return x, weight, scale, torch.randn(outputs, generator=generator).to(dtype)


def wanted(x: Tensor, weight: Tensor, scale: Tensor, bits: int, bias: Tensor | None) -> Tensor:
    """The product in float64."""
    product = x.double() @ dequantized(weight, scale, bits).T
    return product if bias is None else product + bias.double()


def assert_right(result: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert result.dtype == dtype
    assert result.shape == expected.shape
    assert (result.double() - expected).norm() <= BOUND[dtype] * expected.norm()


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize("rows", ROWS)
def test_product(rows: int, dtype: torch.dtype, bits: int, bias: bool) -> None:
    x, weight, scale, offset = drawn(rows, 264, 37, bits, dtype)
    added = offset if bias else None
    assert_right(triton_backend.matmul(x, weight, scale, bits, added), wanted(x, weight, scale, bits, added), dtype)


@pytest.mark.parametrize(("bits", "columns"), [(4, 262), (4, 2), (8, 263), (8, 1)])
@pytest.mark.parametrize("rows", [1, 7])
def test_rows_that_are_no_whole_words(rows: int, bits: int, columns: int) -> None:
    x, weight, scale, bias = drawn(rows, columns, 5, bits, torch.float16)
    expected = wanted(x, weight, scale, bits, bias)
    assert_right(triton_backend.matmul(x, weight, scale, bits, bias), expected, torch.float16)


@pytest.mark.parametrize("rows", [1, 16, 40])
@pytest.mark.parametrize("bits", [4, 8])
def test_every_tile_and_more_than_one_step(bits: int, rows: int) -> None:
    for tile in triton_fused.tiles(rows):
        columns = (tile.words + 1) * 32 // bits
        x, weight, scale, bias = drawn(rows, columns, tile.outputs + 1, bits, torch.float16)
        result = triton_fused.multiply(x, weight, scale, bits, bias, tile)
        assert_right(result, wanted(x, weight, scale, bits, bias), torch.float16)


@pytest.mark.parametrize("rows", [1, 16])
@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize("bits", [4, 8])
def test_every_integer_at_every_column(bits: int, dtype: torch.dtype, rows: int) -> None:
    """One activation of 1, the others 0: what comes out is the integer itself."""
    columns = 16
    weight = torch.arange(-128, 128, dtype=torch.int8)[:, None].expand(256, columns * bits // 8).contiguous()
    scale = torch.ones(256, dtype=torch.float16)
    identity = torch.eye(columns, dtype=dtype)
    tile = triton_fused.Tile(256, 16, 4, 1)  # all in one program: interpreting many takes long
    products = [triton_fused.multiply(part, weight, scale, bits, None, tile) for part in identity.split(rows)]
    assert torch.equal(torch.cat(products).double(), dequantized(weight, scale, bits).T)


def test_shapes_and_strides() -> None:
    x, weight, scale, bias = drawn(6, 64, 9, 4, torch.float16)
    expected = wanted(x, weight, scale, 4, bias)
    shifted = torch.empty(6 * 64 + 1, dtype=torch.float16)[1:].view(6, 64).copy_(x)
    assert shifted.data_ptr() % 4
    for states in (x.view(2, 3, 64), x.T.contiguous().T, shifted):
        result = triton_backend.matmul(states, weight, scale, 4, bias)
        assert_right(result, expected.view(*states.shape[:-1], 9), torch.float16)
    assert_right(triton_backend.matmul(x[0], weight, scale, 4, bias), expected[0], torch.float16)
    strided = bias.repeat_interleave(2)[::2]
    assert_right(triton_backend.matmul(x, weight, scale, 4, strided), expected, torch.float16)
    assert triton_backend.matmul(x[:0], weight, scale, 4, bias).shape == (0, 9)


def test_a_weight_that_does_not_begin_at_a_word() -> None:
    x, weight, scale, bias = drawn(2, 64, 9, 4, torch.float16)
    shifted = torch.empty(weight.numel() + 1, dtype=torch.int8)[1:].view(weight.shape).copy_(weight)
    assert not triton_fused.takes(shifted)
    result = triton_backend.matmul(x, shifted, scale, 4, bias)
    assert_right(result, wanted(x, weight, scale, 4, bias), torch.float16)


@pytest.mark.parametrize("rows", [1, 5, 70])
def test_scales_in_float32_as_in_the_first_published_file(rows: int) -> None:
    x, weight, scale, bias = drawn(rows, 64, 9, 4, torch.float16)
    scale = scale.float() * 1.0001
    result = triton_backend.matmul(x, weight, scale, 4, bias)
    assert_right(result, wanted(x, weight, scale, 4, bias), torch.float16)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("columns", [6, 1030, 4104])
def test_dequantized(columns: int, bits: int) -> None:
    _, weight, scale, _ = drawn(1, columns, 3, bits, torch.float16)
    half = triton_dequantize.dequantize(weight, scale, bits, torch.float16)
    assert torch.equal(half, dequantize(weight, scale, bits, torch.float16))
    exact = dequantized(weight, scale, bits)
    bfloat16 = triton_dequantize.dequantize(weight, scale, bits, torch.bfloat16)
    assert bfloat16.dtype == torch.bfloat16
    assert ((bfloat16.double() - exact).abs() <= 2**-7 * exact.abs()).all()


@pytest.mark.parametrize("block", [1, 200, 1 << 26])
@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_of_a_large_weight(bits: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_BLOCK", block)
    x, weight, scale, bias = drawn(70, 64, 9, bits, torch.float16)
    result = triton_backend.matmul(x, weight, scale, bits, bias)
    assert_right(result, wanted(x, weight, scale, bits, bias), torch.float16)
    gradient = torch.randn(2, 10, 9, generator=torch.Generator().manual_seed(0)).half()
    found = triton_backend.input_gradient(gradient, weight, scale, bits)
    assert found.dtype == gradient.dtype
    exact = gradient.double() @ dequantized(weight, scale, bits)
    assert (found.double() - exact).norm() <= 5e-4 * exact.norm()
    assert torch.allclose(found, reference.input_gradient(gradient, weight, scale, bits), rtol=5e-3, atol=5e-3)


def test_the_trial_finds_it_right() -> None:
    assert gpu.failure("Triton", triton_backend.matmul, torch.device("cpu"), torch.float16) is None


def test_the_benchmark_runs(capsys: pytest.CaptureFixture[str]) -> None:
    options = "--device cpu --shapes 24x64 --rows 1 3 70 --rounds 2 --pool 1e-6 --tiles"
    assert gpu_quantized_matmul.main(options.split()) == 0
    *table, line = capsys.readouterr().out.splitlines()
    report = json.loads(line)
    ways = {(result["rows"], name) for result in report["results"] for name in result if isinstance(result[name], dict)}
    tiled = {(rows, f"triton {tuple(tile)}") for rows in (1, 3) for tile in triton_fused.tiles(rows)}
    plain = {(rows, name) for rows in (1, 3, 70) for name in ("triton", "reference", gpu_quantized_matmul.FLOAT)}
    assert ways == tiled | plain
    assert len(table) == 2 + len(ways)
    for result in report["results"]:
        stored = {"triton": 24 * 32, gpu_quantized_matmul.FLOAT: 24 * 64 * 2}
        for name, size in stored.items():
            figures = result[name]
            assert figures["GB/s"] == pytest.approx(size / figures["ms"] / 1e6, rel=0.05, abs=0.06)
