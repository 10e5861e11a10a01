"""On a GPU: the published snippet, packed models, the kernels themselves. Skipped where there is none.

python -m pytest tests/gpu
"""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, DynamicCache

from glm_model import ChatGLMForCausalLM
from glm_model.checkpoint.prefix import load_prefix
from glm_model.generation import cuda_graphs as graphed_steps
from glm_model.generation import slot_rows
from glm_model.generation.batch import Batch, Ended, Member
from glm_model.generation.stream import stream_text, write_text
from glm_model.generation.transformers_hooks import generate_steps
from glm_model.kernels import reference, triton_backend
from glm_model.kernels.dispatch import choose, describe, quantized_matmul
from glm_model.kernels.packing import dequantize, quantize
from glm_model.loading import load
from glm_model.options import SamplingOptions
from glm_model.quantization.linear import QuantizedLinear
from tests.checkpoints import write_checkpoint
from tests.generation.test_choosing import Spelled
from tests.golden.data import FP32, GOLDEN, TUNED, expected

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU"),
]

# Of a product or a logit, by norm.
BOUND = {torch.float16: 2e-3, torch.bfloat16: 1e-2}


def assert_near(result: Tensor, exact: Tensor, bound: float) -> None:
    assert result.shape == exact.shape
    assert (result.double().cpu() - exact.double().cpu()).norm() <= bound * exact.double().cpu().norm()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chatglm-6b")
    write_checkpoint(folder, hidden=64, heads=2)
    return folder


def prompt(tokenizer: Any, device: str) -> Tensor:
    return torch.tensor([tokenizer("你好")["input_ids"]], device=device)


# ---- the models


def test_the_published_snippet(published: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(published, trust_remote_code=True)
    model = AutoModel.from_pretrained(published, trust_remote_code=True).half().cuda()
    model = model.eval()
    response, history = model.chat(tokenizer, "你好", history=[], max_length=16)
    assert history == [("你好", response)]
    response, history = model.chat(tokenizer, "晚上睡不着应该怎么办", history=history, max_length=64)
    assert len(history) == 2
    *_, (streamed, rounds) = model.stream_chat(tokenizer, "你好", history=[], max_length=16)
    assert rounds == [("你好", streamed)]


@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize("bits", [0, 4, 8])
def test_logits_are_those_of_the_cpu(published: Path, bits: int, dtype: torch.dtype) -> None:
    tokenizer = AutoTokenizer.from_pretrained(published)
    model = ChatGLMForCausalLM.from_pretrained(published).quantize(bits).float().eval()
    with torch.no_grad():
        exact = model(prompt(tokenizer, "cpu")).logits
        logits = model.to(dtype).cuda()(prompt(tokenizer, "cuda")).logits
    assert logits.dtype == dtype
    assert_near(logits, exact, 10 * BOUND[dtype])


@pytest.mark.parametrize("bits", [4, 8])
def test_the_published_snippet_quantized(published: Path, bits: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(published, trust_remote_code=True)
    model = AutoModel.from_pretrained(published, trust_remote_code=True).half().quantize(bits).cuda().eval()
    response, _ = model.chat(tokenizer, "你好", history=[], max_length=24, do_sample=False)
    again, _ = model.chat(tokenizer, "你好", history=[], max_length=24, do_sample=False)
    assert response == again


def test_load_packs_and_moves(published: Path) -> None:
    model, _ = load(str(published), quantize="int4", device="cuda")
    layers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    assert layers
    assert {layer.weight.device.type for layer in layers} == {"cuda"}
    assert model.dtype == torch.float16


@pytest.mark.parametrize("bits", [4, 8])
def test_gradients_of_a_prefix(bits: int) -> None:
    """The published script's setting: the base in half, the prefix in float32."""
    values = expected(TUNED[0])
    model = ChatGLMForCausalLM.from_pretrained(GOLDEN / FP32).quantize(bits)
    load_prefix(model, GOLDEN / TUNED[0])
    found = []
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.float16)):
        moved = copy.deepcopy(model).eval().to(dtype).to(device)
        moved.model.prefix_encoder.float()
        ids, labels = values["loss.input_ids"].to(device), values["loss.labels"].to(device)
        moved(ids, labels=labels).loss.backward()
        found.append(moved.model.prefix_encoder.embedding.weight.grad)
    assert_near(found[1], found[0], 0.05)


# ---- answers


def answer(model: Any, ids: Tensor) -> list[int]:
    *_, (all_ids, _) = generate_steps(model, ids, do_sample=False, max_length=48, eos_token_id=None)
    return all_ids[0].tolist()


@pytest.mark.parametrize("bits", [0, 4])
@pytest.mark.parametrize("folder", [FP32, TUNED[0]])
def test_recorded_steps(folder: str, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 no two tokens come near each other; packed weights are multiplied by PyTorch's operators in it."""
    values = expected(folder)
    model = ChatGLMForCausalLM.from_pretrained(GOLDEN / FP32)
    if folder in TUNED:
        load_prefix(model, GOLDEN / folder)
    model = model.quantize(bits).float().cuda().eval()
    ids = values["a.input_ids"].cuda()
    recordings: list[Any] = []
    original = graphed_steps.recorded
    monkeypatch.setattr(graphed_steps, "CAPACITY_STEP", 10)

    def recorded(run: Any) -> Any:
        recordings.append(original(run))
        return recordings[-1]

    monkeypatch.setattr(graphed_steps, "recorded", recorded)
    tokens = answer(model, ids)
    assert len(recordings) == 2  # rooms of 32 and 48 tokens, for a prompt of 17
    model.runtime.cuda_graphs = False
    assert tokens == answer(model, ids)
    assert len(recordings) == 2


@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize("bits", [0, 4, 8])
def test_recorded_logits(published: Path, bits: int, dtype: torch.dtype) -> None:
    tokenizer = AutoTokenizer.from_pretrained(published)
    model = ChatGLMForCausalLM.from_pretrained(published).quantize(bits).to(dtype).cuda().eval()
    ids = prompt(tokenizer, "cuda")
    positions = model.derive_position_ids(ids, length=ids.shape[1] + 8)
    cache, plain = DynamicCache(), DynamicCache()
    with torch.inference_mode():
        for one in (cache, plain):
            model(ids, past_key_values=one, use_cache=True)
        steps = graphed_steps.GraphedSteps(model, cache, ids.shape[1] + 8)
        for place in range(ids.shape[1], ids.shape[1] + 8):
            token, position = torch.tensor([[place + 10]], device="cuda"), positions[..., place : place + 1]
            wanted = model(token, position_ids=position, past_key_values=plain, use_cache=True).logits
            assert_near(steps(token, position), wanted, 2 * BOUND[dtype])


@pytest.mark.parametrize("bits", [0, 4])
def test_transformers_compiles_a_step_of_a_static_cache(bits: int) -> None:
    model = ChatGLMForCausalLM.from_pretrained(GOLDEN / FP32).quantize(bits).float().cuda().eval()
    ids = expected(FP32)["a.input_ids"].cuda()
    options = {"do_sample": False, "max_length": 32, "eos_token_id": None}
    dynamic = model.generate(ids, **options)
    assert torch.equal(model.generate(ids, cache_implementation="static", **options), dynamic)


# ---- the kernels


def drawn(
    rows: int, columns: int, outputs: int, bits: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Activations, packed weight, scales, bias, on the GPU."""
    generator = torch.Generator().manual_seed(rows + columns + outputs + bits)
    weight, scale = quantize(torch.randn(outputs, columns, generator=generator), bits)
    x = torch.randn(rows, columns, generator=generator).to(dtype)
    bias = torch.randn(outputs, generator=generator).to(dtype)
    return x.cuda(), weight.cuda(), scale.cuda(), bias.cuda()


def exact_product(x: Tensor, weight: Tensor, scale: Tensor, bits: int, bias: Tensor) -> Tensor:
    return x.double() @ dequantize(weight, scale, bits, torch.float64).T + bias.double()


needs_triton = pytest.mark.skipif(
    not torch.cuda.is_available() or triton_backend.problem(torch.device("cuda", 0), torch.float16) is not None,
    reason="there is no CUDA GPU that Triton works on",
)
SHAPES = [(264, 37), (4096, 4100), (16384, 130), (262, 70), (5001, 33)]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize("rows", [1, 2, 7, 16, 17, 64, 65, 300])
def test_product(rows: int, dtype: torch.dtype, bits: int) -> None:
    for columns, outputs in SHAPES:
        if columns * bits % 8:
            continue
        x, weight, scale, bias = drawn(rows, columns, outputs, bits, dtype)
        result = quantized_matmul(x, weight, scale, bits, bias=bias)
        assert result.dtype == dtype
        exact = exact_product(x, weight, scale, bits, bias)
        assert_near(result, exact, max(BOUND[dtype], 1.1 * library_error(x, weight, scale, bits, bias, exact)))


def library_error(x: Tensor, weight: Tensor, scale: Tensor, bits: int, bias: Tensor, exact: Tensor) -> float:
    """Of the GPU's own product, which many rows and odd widths are given to: in bfloat16 it may add up in bfloat16."""
    product = nn.functional.linear(x, dequantize(weight, scale, bits, x.dtype), bias)
    return float((product.double() - exact).norm() / exact.norm())


@needs_triton
def test_triton_is_used_and_said() -> None:
    x, weight, scale, _ = drawn(1, 264, 37, 4, torch.float16)
    assert choose(x, weight, scale, 4).name == "triton"
    assert describe(device="cuda") == f"triton kernels on {torch.cuda.get_device_name()}"


@needs_triton
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", BOUND, ids=str)
@pytest.mark.parametrize("rows", [1, 16, 64])
def test_every_tile(rows: int, dtype: torch.dtype, bits: int) -> None:
    from glm_model.kernels import triton_fused

    x, weight, scale, bias = drawn(rows, 4104, 1030, bits, dtype)
    exact = exact_product(x, weight, scale, bits, bias)
    for tile in triton_fused.tiles(rows):
        assert_near(triton_fused.multiply(x, weight, scale, bits, bias, tile), exact, BOUND[dtype])


@needs_triton
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", BOUND, ids=str)
def test_dequantized(dtype: torch.dtype, bits: int) -> None:
    from glm_model.kernels import triton_dequantize

    _, weight, scale, _ = drawn(1, 4102, 70, bits, dtype)
    assert torch.equal(triton_dequantize.dequantize(weight, scale, bits, dtype), dequantize(weight, scale, bits, dtype))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", BOUND, ids=str)
def test_gradient_of_the_input(dtype: torch.dtype, bits: int) -> None:
    x, weight, scale, bias = drawn(20, 264, 70, bits, dtype)
    x.requires_grad_()
    gradient = torch.randn(20, 70, device="cuda").to(dtype)
    quantized_matmul(x, weight, scale, bits, bias=bias).backward(gradient)
    assert x.grad is not None
    assert_near(x.grad, reference.input_gradient(gradient.double(), weight, scale, bits), BOUND[dtype])


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("rows", [1, 16, 80])
def test_torch_compile(rows: int, mode: str) -> None:
    layer = QuantizedLinear.from_float(nn.Linear(264, 70), 4).half().cuda()
    compiled = torch.compile(layer, mode=mode, fullgraph=True)
    with torch.inference_mode():
        for seed in range(3):
            x = torch.randn(rows, 264, generator=torch.Generator().manual_seed(seed)).half().cuda()
            assert_near(compiled(x).clone(), layer(x), BOUND[torch.float16])


def test_a_graph_of_products_that_were_never_made_before() -> None:
    """Nothing may be tuned while a graph is captured."""
    x, weight, scale, bias = drawn(3, 328, 45, 4, torch.float16)
    quantized_matmul(x[:, :264].contiguous(), *drawn(3, 264, 45, 4, torch.float16)[1:3], 4)  # the trial
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = quantized_matmul(x, weight, scale, 4, bias=bias)
    graph.replay()
    assert_near(result, exact_product(x, weight, scale, 4, bias), BOUND[torch.float16])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU at most")
def test_on_a_gpu_that_is_not_the_current_one() -> None:
    x, weight, scale, bias = (value.to("cuda:1") for value in drawn(3, 264, 45, 4, torch.float16))
    result = quantized_matmul(x, weight, scale, 4, bias=bias)
    assert result.device == x.device
    assert_near(result, exact_product(x, weight, scale, 4, bias), BOUND[torch.float16])


@pytest.mark.parametrize("bits", [0, 4])
@pytest.mark.parametrize("folder", [FP32, TUNED[0]])
def test_rows_in_slots(folder: str, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that come one after the other and share recorded steps are those of each alone without any recording."""
    model = ChatGLMForCausalLM.from_pretrained(GOLDEN / FP32)
    if folder in TUNED:
        load_prefix(model, GOLDEN / folder)
    model = model.quantize(bits).float().cuda().eval()
    monkeypatch.setattr(slot_rows, "WIDTH_STEP", 16)
    recordings: list[Any] = []
    original = graphed_steps.recorded

    def recorded(run: Any) -> Any:
        recordings.append(original(run))
        return recordings[-1]

    monkeypatch.setattr(graphed_steps, "recorded", recorded)
    batch = Batch(model, most_rows=4)
    assert batch.joins
    texts: dict[Member, str] = {}
    prompts = {}
    for length in (5, 17, 9, 12, 20):
        while len(batch) == 4:
            _turn(batch, texts)
        ids = [*range(20, 20 + length), model.config.gmask_token_id, model.config.bos_token_id]
        member = batch.insert(write_text(model, Spelled(), ids, SamplingOptions(max_length=48, temperature=0)))
        texts[member], prompts[member] = "", ids
        for _ in range(3):
            _turn(batch, texts)
    while len(batch):
        _turn(batch, texts)
    assert len(recordings) > 3  # of several numbers of rows and widths
    model.runtime.cuda_graphs = False
    for member, ids in prompts.items():
        chunks = stream_text(model, Spelled(), ids, SamplingOptions(max_length=48, temperature=0))
        assert texts[member] == "".join(chunk.text for chunk in chunks)


def _turn(batch: Batch, texts: dict[Member, str]) -> None:
    for member, item in batch.turn():
        if isinstance(item, Ended):
            assert item.error is None
        else:
            texts[member] += item.text
