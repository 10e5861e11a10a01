"""The layers over packed weights, and the choice of a kernel: values, gradients, dtypes, what stays in memory."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from glm_model.kernels import dispatch, packing
from glm_model.kernels.dispatch import REFERENCE, Backend, Kernel, choose, quantized_matmul, register
from glm_model.quantization.linear import QuantizedEmbedding, QuantizedLinear
from tests.golden.data import assert_close
from tests.quantization import rounding

FLOATS = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 1e-3}


@pytest.fixture(params=["one block", "blocks of two rows"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "one block":
        monkeypatch.setattr(packing, "_BLOCK", 30)


@pytest.fixture
def only_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_KERNELS", [REFERENCE])


def drawn_layer(bits: int, bias: bool = True, rows: int = 9) -> tuple[QuantizedLinear, Tensor]:
    """A layer of 14 columns, and its weight in float64 by exact arithmetic."""
    torch.manual_seed(bits)
    layer = QuantizedLinear.from_float(nn.Linear(14, rows, bias), bits)
    return layer, rounding.dequantized(layer.weight, layer.weight_scale, bits)


@pytest.mark.usefixtures("blocks", "only_reference")
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(14,), (1, 14), (3, 14), (2, 5, 14), (0, 14)], ids=str)
def test_product(shape: tuple[int, ...], dtype: torch.dtype, bits: int) -> None:
    layer, weight = drawn_layer(bits)
    x = torch.randn(shape).to(dtype)
    output = layer.to(dtype)(x)
    assert output.dtype == dtype
    assert layer.bias is not None
    wanted = F.linear(x.double(), weight, layer.bias.double())
    assert output.shape == wanted.shape
    if wanted.numel():
        assert_close(output, wanted, FLOATS[dtype])


@pytest.mark.usefixtures("blocks", "only_reference")
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_gradient_of_the_input(dtype: torch.dtype, bits: int) -> None:
    layer, weight = drawn_layer(bits)
    x = torch.randn(2, 3, 14, dtype=dtype, requires_grad=True)
    gradient = torch.randn(2, 3, 9, dtype=dtype)
    layer.to(dtype)(x).backward(gradient)
    assert x.grad is not None
    assert_close(x.grad, gradient.double() @ weight, FLOATS[dtype])
    assert layer.weight.grad is None
    assert layer.weight_scale.grad is None


def test_training_keeps_no_float_weight() -> None:
    """Autograd would keep every dequantized weight until the backward pass: four to eight times the packed model."""
    layer, _ = drawn_layer(4, rows=200)
    kept: list[Tensor] = []
    x = torch.randn(2, 14, requires_grad=True)

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x)
    assert {tensor.dtype for tensor in kept} == {torch.int8, torch.float16}
    assert sum(tensor.nbytes for tensor in kept) == layer.weight.nbytes + layer.weight_scale.nbytes


def test_bias() -> None:
    layer, weight = drawn_layer(8, bias=False)
    assert layer.bias is None
    assert "bias" not in layer.state_dict()
    x = torch.randn(3, 14)
    assert_close(layer(x), x.double() @ weight.T, 1e-6)


@pytest.mark.parametrize("scale_dtype", [torch.float16, torch.float32], ids=str)
def test_casting_never_touches_what_the_file_says(scale_dtype: torch.dtype) -> None:
    layer, _ = drawn_layer(4)
    layer.weight_scale.data = layer.weight_scale.data.to(scale_dtype) * 1.0001
    packed, scale = layer.weight.clone(), layer.weight_scale.clone()
    for cast in (nn.Module.half, nn.Module.bfloat16, nn.Module.double, nn.Module.float):
        cast(layer)
        assert layer.weight_scale.dtype == scale_dtype
        assert torch.equal(layer.weight_scale, scale)
        assert torch.equal(layer.weight, packed)
    layer.to(torch.float16)
    assert layer.weight_scale.dtype == scale_dtype
    assert layer.bias is not None
    assert layer.bias.dtype == torch.float16


def test_moving_moves_all() -> None:
    layer, _ = drawn_layer(4)
    moved = copy.deepcopy(layer).to("meta", torch.bfloat16)
    assert {(value.device.type, value.dtype) for value in moved.state_dict().values()} == {
        ("meta", torch.int8),
        ("meta", torch.float16),
        ("meta", torch.bfloat16),
    }


def test_state_dict_has_the_published_names() -> None:
    layer, _ = drawn_layer(4)
    assert [(name, value.dtype) for name, value in layer.state_dict().items()] == [
        ("weight", torch.int8),
        ("weight_scale", torch.float16),
        ("bias", torch.float32),
    ]
    other = QuantizedLinear(14, 9, 4)
    assert not other.weight.any()
    other.load_state_dict(layer.state_dict())
    x = torch.randn(2, 14)
    assert torch.equal(other(x), layer(x))
    assert repr(layer) == "QuantizedLinear(14, 9, bits=4, bias=True)"


def test_a_state_dict_comes_in_as_it_is() -> None:
    layer, _ = drawn_layer(4)
    values = layer.state_dict()
    values["weight_scale"] = values["weight_scale"].float() * 1.0001
    layer.load_state_dict(values)
    assert torch.equal(layer.weight_scale, values["weight_scale"])
    with pytest.raises(RuntimeError, match=r"weight is torch.float32, the layer is packed: load float weights, then"):
        layer.load_state_dict({**values, "weight": torch.ones(9, 7)})


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_embedding(dtype: torch.dtype, bits: int) -> None:
    torch.manual_seed(bits)
    embedding = QuantizedEmbedding.from_float(nn.Embedding(20, 6), bits)
    weight = rounding.dequantized(embedding.weight, embedding.weight_scale, bits)
    ids = torch.tensor([[0, 19, 3], [3, 3, 7]])
    assert embedding.dtype == torch.float32
    rows = embedding.to(dtype)(ids)
    assert rows.dtype == embedding.dtype == dtype
    assert torch.equal(rows, weight[ids].to(dtype))
    assert embedding.weight_scale.dtype == torch.float16
    assert list(embedding.state_dict()) == ["weight", "weight_scale"]


def test_embedding_takes_the_dtype_of_the_float_one() -> None:
    assert QuantizedEmbedding.from_float(nn.Embedding(4, 2, dtype=torch.bfloat16), 4).dtype == torch.bfloat16


def test_odd_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="7 columns are odd"):
        QuantizedLinear(7, 4, 4)
    with pytest.raises(ValueError, match="7 columns are odd"):
        QuantizedEmbedding(4, 7, 4)
    QuantizedLinear(7, 5, 8)


@pytest.mark.usefixtures("only_reference")
def test_layers_compile_whole() -> None:
    layer, _ = drawn_layer(4)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    x = torch.randn(3, 14)
    with torch.no_grad():
        assert torch.equal(compiled(x), layer(x))


# ---- the choice of a kernel


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kernels that multiply like the reference and say that they were called; those there are otherwise are away."""
    monkeypatch.setattr(dispatch, "_KERNELS", [REFERENCE])
    monkeypatch.setattr(dispatch, "_BACKENDS", [])
    calls: list[str] = []

    def fake(name: str, precision: dispatch.Precision, rows: int) -> Backend:
        def matmul(x: Tensor, weight: Tensor, scale: Tensor, bits: int, bias: Tensor | None) -> Tensor:
            calls.append(name)
            return REFERENCE.matmul(x, weight, scale, bits, bias)

        kernel = Kernel(name, precision, lambda x, weight, scale, bits: len(x) <= rows, matmul)
        return Backend(name, "cpu", (kernel,), lambda device: None, lambda device, precision, why: name)

    register(fake("exact few rows", "exact", 2))
    register(fake("fast few rows", "fast", 4))
    return calls


@pytest.mark.parametrize(
    ("rows", "precision", "name"),
    [
        (1, "exact", "exact few rows"),
        (3, "exact", "reference"),
        (1, "fast", "fast few rows"),
        (4, "fast", "fast few rows"),
        (5, "fast", "reference"),
    ],
)
def test_the_last_registered_kernel_that_may_and_can(
    registry: list[str], rows: int, precision: dispatch.Precision, name: str
) -> None:
    layer, weight = drawn_layer(8, bias=False)
    layer.precision = precision
    x = torch.randn(rows, 14)
    assert choose(x, layer.weight, layer.weight_scale, 8, precision).name == name
    assert_close(layer(x), x.double() @ weight.T, 1e-6)
    assert registry == [name] * (name != "reference")
    x.requires_grad_()
    layer(x).sum().backward()
    assert registry == [name, name] * (name != "reference")


def test_the_order_of_choice_is_that_of_names_whatever_is_imported_first(monkeypatch: pytest.MonkeyPatch) -> None:
    order = [(kernel.name, kernel.precision) for kernel in dispatch._KERNELS]
    assert order == [
        *(("native", "fast"), ("native", "exact"), ("onnxruntime", "fast"), ("onnxruntime", "exact")),
        *(("triton", "exact"), ("cpm_kernels", "exact"), ("reference", "exact")),
    ]
    for backends in (dispatch._BACKENDS[::-1], dispatch._BACKENDS[2:] + dispatch._BACKENDS[:2]):
        monkeypatch.setattr(dispatch, "_KERNELS", [REFERENCE])
        monkeypatch.setattr(dispatch, "_BACKENDS", [])
        for backend in backends:
            register(backend)
        assert [(kernel.name, kernel.precision) for kernel in dispatch._KERNELS] == order
        assert [backend.name for backend in dispatch._BACKENDS] == ["native", "onnxruntime", "triton", "cpm_kernels"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.ones(1, 12)}, "x has 12 columns, the weight 14"),
        ({"weight": torch.ones(9, 7)}, "a packed weight is int8, not torch.float32"),
        ({"scale": torch.ones(8)}, r"the scale is \[8\], the weight has 9 rows"),
        ({"bias": torch.ones(1)}, r"the bias is \[1\], the weight has 9 rows"),
        ({"scale": torch.ones(9, device="meta")}, "on one device, not on cpu, meta"),
        ({"bias": torch.ones(9, device="meta")}, "on one device, not on cpu, meta"),
    ],
)
def test_arguments_that_do_not_belong_together(change: dict[str, Tensor], words: str) -> None:
    layer, _ = drawn_layer(4)
    arguments: dict[str, Any] = {
        "x": torch.ones(1, 14),
        "weight": layer.weight,
        "scale": layer.weight_scale,
        "bias": None,
        **change,
    }
    with pytest.raises(ValueError, match=words):
        quantized_matmul(**arguments, bits=4)


def test_it_can_be_traced() -> None:
    layer, _ = drawn_layer(4)
    x = torch.randn(2, 14)
    with torch.no_grad():
        traced = torch.jit.trace(layer, torch.zeros(2, 14), check_trace=False)
        assert torch.equal(traced(x), layer(x))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert layer(mode.from_tensor(x)).shape == (2, 9)


def test_an_unknown_precision() -> None:
    layer, _ = drawn_layer(8)
    with pytest.raises(ValueError, match="precision must be 'exact' or 'fast', not 'exakt'"):
        quantized_matmul(torch.ones(1, 14), layer.weight, layer.weight_scale, 8, "exakt")  # type: ignore[arg-type]
