"""Which kernel a product on a GPU takes, as far as that can be known without one; and cpm-kernels by a stand-in."""

import ctypes
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from glm_model.kernels import choice, cpm, dispatch, gpu, reference, triton_backend
from glm_model.kernels.packing import dequantize, quantize
from glm_model.quantization.linear import QuantizedLinear

GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def undecided(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is remembered of a GPU, before or after."""
    monkeypatch.delenv("GLM_KERNEL", raising=False)
    for decided in (choice.wanted, triton_backend.problem, cpm.problem):
        decided.cache_clear()
    yield
    monkeypatch.undo()
    for decided in (choice.wanted, triton_backend.problem, cpm.problem):
        decided.cache_clear()


# ---- the choice


def chosen(dtype: torch.dtype = torch.float16, scale_dtype: torch.dtype = torch.float16) -> str:
    """The name of the kernel for tensors on a GPU that exists in name only."""
    with FakeTensorMode():
        x = torch.empty(3, 64, dtype=dtype, device="cuda")
        weight = torch.empty(8, 32, dtype=torch.int8, device="cuda")
        scale = torch.empty(8, dtype=scale_dtype, device="cuda")
        return dispatch.choose(x, weight, scale, 4).name


@pytest.fixture
def working(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The backends that work on the GPU; a test takes out what shall not."""
    names = {"triton", "cpm_kernels"}
    monkeypatch.setattr(triton_backend, "problem", lambda device, dtype: None if "triton" in names else "Triton is ill")
    monkeypatch.setattr(cpm, "problem", lambda device: None if "cpm_kernels" in names else "cpm-kernels is ill")
    return names


@pytest.mark.parametrize(
    ("ill", "name"),
    [
        (set(), "triton"),
        ({"cpm_kernels"}, "triton"),
        ({"triton"}, "cpm_kernels"),
        ({"triton", "cpm_kernels"}, "reference"),
    ],
)
def test_the_best_that_works(working: set[str], ill: set[str], name: str) -> None:
    working -= ill
    assert chosen() == name


def test_what_each_takes(working: set[str]) -> None:
    assert chosen(torch.bfloat16, torch.float32) == "triton"
    assert chosen(torch.float32) == "reference"
    working.remove("triton")
    assert chosen(torch.bfloat16) == "reference"
    assert chosen(torch.float16, torch.float32) == "reference"


@pytest.mark.usefixtures("working")
def test_a_cpu_never_asks_them() -> None:
    x, (weight, scale) = torch.randn(3, 64).half(), quantize(torch.randn(8, 64), 4)
    assert dispatch.choose(x, weight, scale, 4).name not in ("triton", "cpm_kernels")


@pytest.mark.usefixtures("working")
@pytest.mark.parametrize("name", ["triton", "cpm_kernels", "reference", "native"])
def test_the_user_may_choose(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM_KERNEL", name)
    assert chosen() == (name if name != "native" else "reference")


def test_it_is_said(working: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 7)
    assert dispatch.describe(device="cuda:1") == "triton kernels on GPU 1"
    working.remove("triton")
    assert dispatch.describe(device="cuda") == "cpm_kernels kernels on GPU 7"
    working.clear()
    assert dispatch.describe(device=GPU) == "reference kernel, slow (Triton is ill; cpm-kernels is ill)"
    monkeypatch.setenv("GLM_KERNEL", "reference")
    choice.wanted.cache_clear()
    assert dispatch.describe(device=GPU) == "reference kernel, slow (GLM_KERNEL=reference)"


# ---- the trial

CPU = torch.device("cpu")


def right(x: Tensor, weight: Tensor, scale: Tensor, bits: int, bias: Tensor | None) -> Tensor:
    return gpu.multiply_dequantized(x, weight, scale, bits, bias, dequantize)


def without_bias(x: Tensor, weight: Tensor, scale: Tensor, bits: int, bias: Tensor | None) -> Tensor:
    return right(x, weight, scale, bits, None)


def not_a_number(x: Tensor, weight: Tensor, scale: Tensor, bits: int, bias: Tensor | None) -> Tensor:
    return right(x, weight, scale, bits, bias) * float("nan")


def wrong_for_many(x: Tensor, weight: Tensor, scale: Tensor, bits: int, bias: Tensor | None) -> Tensor:
    return right(x, weight, scale, bits, bias) * (1 if len(x) < 17 else 1.1)


def no_compiler(*arguments: object) -> Tensor:
    raise RuntimeError("Failed to find C compiler.\nPlease specify via CC environment variable.")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_what_is_right_passes(dtype: torch.dtype) -> None:
    assert gpu.failure("It", right, CPU, dtype) is None


@pytest.mark.parametrize(
    ("matmul", "reason"),
    [
        (without_bias, "It computes something else than the reference"),
        (not_a_number, "It computes something else than the reference"),
        (wrong_for_many, "It computes something else than the reference"),
        (no_compiler, "It cannot be used (RuntimeError: Failed to find C compiler.)"),
    ],
)
def test_what_is_not_is_refused_and_said(
    matmul: Callable[..., Tensor], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert gpu.failure("It", matmul, CPU, torch.float16) == reason
    assert [reason in record.getMessage() for record in caplog.records] == [True]


def test_without_triton_nothing_is_tried(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert triton_backend.problem(GPU, torch.float16) == "Triton is not installed"
    assert not caplog.records, "most machines have none, and need none"


def test_a_triton_that_fails_is_said_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(gpu, "_is_right", no_compiler)
    monkeypatch.setattr(cpm, "problem", lambda device: "cpm-kernels is ill")
    assert chosen() == "reference"
    assert chosen() == "reference"
    assert "Failed to find C compiler" in dispatch.describe(device=GPU)
    assert len([record for record in caplog.records if "Failed to find C compiler" in record.getMessage()]) == 1


# ---- cpm-kernels


@pytest.mark.parametrize("capability", [(6, 1), (6, 2), (7, 0), (7, 5), (8, 0), (8, 6), (8, 9)])
def test_gpus_that_the_package_has_code_for(capability: tuple[int, int]) -> None:
    assert cpm.has_code_for(*capability)


@pytest.mark.parametrize("capability", [(5, 2), (6, 0), (9, 0), (10, 0), (12, 0)])
def test_gpus_that_it_has_no_code_for(capability: tuple[int, int]) -> None:
    assert not cpm.has_code_for(*capability)


STAND_IN = """
calls = []


def gemm_scale_x(batch, n, m, mat, scale_x, out, stream):
    calls.append((batch, n, m, mat, scale_x, out, stream))
    compute(n, m, mat, scale_x, out)
"""


def gemm_scale_x(n: int, m: int, mat: int, scale_x: int, out: int) -> None:
    """What the package's kernel does: each row of an int32 matrix times a half scale, in float32, rounded to half."""

    def memory(address: int, count: int, dtype: torch.dtype) -> Tensor:
        size = count * torch.empty(0, dtype=dtype).element_size()
        return torch.frombuffer((ctypes.c_char * size).from_address(address), dtype=dtype)

    product = memory(mat, n * m, torch.int32).view(n, m).float() * memory(scale_x, n, torch.float16).float()[:, None]
    memory(out, n * m, torch.float16).view(n, m).copy_(product)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A package of the same name and interface for the CPU, on a GPU of capability 7.5 that is one in name only."""
    package = tmp_path / "cpm_kernels" / "kernels"
    package.mkdir(parents=True)
    (tmp_path / "cpm_kernels" / "__init__.py").touch()
    (package / "__init__.py").write_text(STAND_IN, encoding="utf-8")
    (tmp_path / "pkg_resources.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cpm_kernels", raising=False)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=77))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    import cpm_kernels.kernels

    monkeypatch.setattr(cpm_kernels.kernels, "compute", gemm_scale_x, raising=False)
    yield cpm_kernels.kernels
    for name in ("cpm_kernels", "cpm_kernels.kernels"):
        sys.modules.pop(name)


@pytest.mark.parametrize("most_rows", [65535, 4])
@pytest.mark.parametrize("bits", [4, 8])
def test_its_dequantization(
    stand_in: SimpleNamespace, bits: int, most_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpm, "_MOST_ROWS", most_rows)
    weight, scale = quantize(torch.randn(9, 30), bits)
    assert torch.equal(cpm.dequantize(weight, scale, bits), dequantize(weight, scale, bits, torch.float16))
    assert [call[:3] for call in stand_in.calls] == ([(1, 9, 30)] if most_rows > 9 else [(1, 4, 30)] * 2 + [(1, 1, 30)])
    assert {call[-1] for call in stand_in.calls} == {77}


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("bits", [4, 8])
def test_its_product(bits: int) -> None:
    weight, scale = quantize(torch.randn(9, 30), bits)
    x, bias = torch.randn(2, 3, 30).half(), torch.randn(9).half()
    expected = reference.matmul(x.float(), weight, scale, bits) + bias.float()
    assert torch.allclose(cpm.matmul(x, weight, scale, bits, bias).float(), expected, rtol=1e-2, atol=1e-2)
    assert torch.allclose(cpm.matmul(x, weight, scale, bits).float(), expected - bias.float(), rtol=1e-2, atol=1e-2)


@pytest.mark.usefixtures("stand_in")
def test_it_is_tried() -> None:
    assert cpm.problem(CPU) is None


def test_it_is_refused_if_it_computes_something_else(stand_in: SimpleNamespace) -> None:
    stand_in.compute = lambda n, m, mat, scale_x, out: gemm_scale_x(n, m, mat, out, out)
    assert cpm.problem(CPU) == "cpm-kernels computes something else than the reference"


def test_it_is_not_loaded_on_other_gpus(stand_in: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert cpm.problem(GPU) == "cpm-kernels has no code for compute capability 9.0"
    assert not stand_in.calls


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize(
    ("missing", "reason"),
    [("cpm_kernels", "cpm-kernels is not installed"), ("pkg_resources", "cpm-kernels needs setuptools older than 82")],
)
def test_what_it_lacks_is_said(missing: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else object())
    assert cpm.problem(GPU) == reason


# ---- a bias, wherever it is added


def test_the_bias_and_the_gradient_of_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []

    def matmul(x: Tensor, weight: Tensor, scale: Tensor, bits: int, bias: Tensor | None = None) -> Tensor:
        used.append("product" if bias is None else "product with bias")
        return right(x.detach(), weight, scale, bits, bias)

    def input_gradient(gradient: Tensor, weight: Tensor, scale: Tensor, bits: int) -> Tensor:
        used.append("gradient")
        return reference.input_gradient(gradient, weight, scale, bits)

    kernel = dispatch.Kernel("new", "exact", lambda *arguments: True, matmul, input_gradient)
    monkeypatch.setattr(dispatch, "_KERNELS", [kernel])
    layer, bias = QuantizedLinear.from_float(nn.Linear(14, 9), 4), nn.Parameter(torch.randn(9))
    layer.bias = bias
    x = torch.randn(3, 14)
    weight = dequantize(layer.weight, layer.weight_scale, 4, torch.float32)
    with torch.no_grad():
        assert torch.allclose(layer(x), x @ weight.T + bias, atol=1e-5)
    x.requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None
    assert bias.grad is not None
    assert torch.allclose(x.grad, weight.sum(0).expand(3, 14), atol=1e-5)
    assert torch.equal(bias.grad, torch.full((9,), 3.0))
    assert used == ["product with bias", "product", "gradient"]


def test_the_bias_alone_may_train() -> None:
    layer = QuantizedLinear.from_float(nn.Linear(14, 9), 8)
    layer(torch.randn(3, 14)).sum().backward()
    assert layer.bias is not None
    assert layer.bias.grad is not None
    assert torch.equal(layer.bias.grad, torch.full((9,), 3.0))


def test_the_output_has_the_dtype_of_the_input() -> None:
    layer = QuantizedLinear.from_float(nn.Linear(14, 9), 8)
    assert layer.bias is not None
    assert layer.bias.dtype == torch.float32
    assert layer(torch.randn(3, 14).bfloat16()).dtype == torch.bfloat16
    with torch.no_grad():
        assert layer(torch.randn(3, 14).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("with_bias", [True, False])
def test_the_operator_that_torch_compile_sees(with_bias: bool) -> None:
    weight, scale = quantize(torch.randn(9, 14), 4)
    bias = torch.randn(9) if with_bias else None
    torch.library.opcheck(dispatch._opaque_multiply, (torch.randn(2, 3, 14), weight, scale, 4, "exact", bias))


def test_a_compiled_layer_trains() -> None:
    layer = QuantizedLinear.from_float(nn.Linear(14, 9), 4)
    x = torch.randn(3, 14, requires_grad=True)
    torch.compile(layer, backend="aot_eager", fullgraph=True)(x).square().sum().backward()
    (wanted,) = torch.autograd.grad(layer(x).square().sum(), x)
    assert x.grad is not None
    assert torch.allclose(x.grad, wanted, atol=1e-5)
