"""onnxruntime's kernel against dequantize-then-multiply in float64, where onnxruntime is installed."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("onnxruntime")

from glm_model import ChatGLMConfig, ChatGLMForCausalLM
from glm_model.kernels import choice, onnx
from glm_model.kernels.packing import dequantize, quantize


@pytest.fixture(params=["split", "unsplit"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is used here, and what would be used where onnxruntime has one scale for a whole row."""
    if request.param == "unsplit":
        monkeypatch.setattr(onnx, "_rounds_in_blocks", lambda bits: False)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 4096, 96), (3, 90, 7), (9, 258, 65), (150, 770, 37)], ids=str)
def test_it_multiplies(shape: tuple[int, int, int], bits: int, dtype: torch.dtype) -> None:
    rows, columns, outputs = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, columns, generator=generator)
    x[::2, 17] *= 100
    x = x.to(dtype)
    weight, scale = quantize(torch.randn(outputs, columns, generator=generator).half(), bits)
    expected = x.double() @ dequantize(weight, scale, bits, torch.float64).T
    for matmul, bound in ((onnx.fast_matmul, 0.02), (onnx.exact_matmul, 2e-6 + torch.finfo(dtype).eps / 2)):
        result = matmul(x, weight, scale, bits)
        assert result.dtype == dtype
        assert (result.double() - expected).norm() / expected.norm() < bound
        assert matmul(x[:0], weight, scale, bits).shape == (0, outputs)


def test_parts_survive_rounding_to_8_bits() -> None:
    """They add up to what they are parts of, and each is 127 steps at most of its block's largest number."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(5, 600, generator=generator) * 10 ** torch.randn(600, generator=generator)
    rows[1], rows[2, :300] = 0, 0
    parts = onnx._split(rows, onnx._EXACT).double()
    assert len(parts) == 3
    assert (parts.sum(0) - rows).abs().max() <= 1e-7 * rows.abs().max()
    for part in parts[:-1]:
        for block in part.split(onnx._EXACT.block, dim=1):
            steps = block / (block.abs().amax(1, keepdim=True) / 127).clamp(min=1e-300)
            assert (steps - steps.round()).abs().max() < 1e-4
    first, second, third = (part.abs().amax() for part in parts)
    assert second < first / 250
    assert third < second / 250


def test_fast_leaves_out_what_is_negligible() -> None:
    """A row without outliers is multiplied once, one with them twice; exactly so in any company."""
    rows = torch.randn(2, 512, generator=torch.Generator().manual_seed(0))
    rows[1, 7] *= 100
    multiplied: list[int] = []

    def run(names: None, inputs: dict[str, Any]) -> list[Any]:
        multiplied.append(len(inputs["x"]))
        return [inputs["x"]]

    together = onnx._product(run, rows, onnx._FAST)
    alone = [onnx._product(run, row[None], onnx._FAST) for row in rows]
    assert multiplied == [3, 1, 2]
    assert torch.equal(together, torch.cat(alone))
    assert torch.allclose(together[1], rows[1])
    assert 0 < (together[0] - rows[0]).norm() / rows[0].norm() < 0.01


def test_other_rounding_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One scale for a whole row, as some of onnxruntime's kernels for ARM have it."""
    start = onnx._start

    def rounds_rows(*arguments: Any) -> Any:
        run, memory = start(*arguments)

        def rounded(names: None, inputs: dict[str, Any]) -> Any:
            step = abs(inputs["x"]).max(axis=1, keepdims=True) / 127
            return run(names, {"x": (inputs["x"] / step).round() * step})

        return rounded, memory

    onnx._rounds_in_blocks.cache_clear()
    assert onnx._rounds_in_blocks(4)
    onnx._rounds_in_blocks.cache_clear()
    monkeypatch.setattr(onnx, "_start", rounds_rows)
    assert not onnx._rounds_in_blocks(4)
    onnx._rounds_in_blocks.cache_clear()


def test_a_weight_that_was_written_to_is_read_anew() -> None:
    x, (weight, scale) = torch.ones(1, 64), quantize(torch.ones(4, 64), 4)
    assert torch.allclose(onnx.fast_matmul(x, weight, scale, 4), torch.full((1, 4), 64.0), rtol=0.01)
    weight.copy_(quantize(-torch.ones(4, 64), 4)[0])
    assert torch.allclose(onnx.fast_matmul(x, weight, scale, 4), torch.full((1, 4), -64.0), rtol=0.01)


def test_another_scale_counts() -> None:
    x, (weight, scale) = torch.ones(1, 64), quantize(torch.ones(4, 64), 4)
    for factor in (1, 2):
        expected = torch.full((1, 4), 64.0 * factor)
        assert torch.allclose(onnx.exact_matmul(x, weight, factor * scale, 4), expected, rtol=0.001)
    onnx.exact_matmul(x, weight, scale, 4)
    scale *= 3
    assert torch.allclose(onnx.exact_matmul(x, weight, scale, 4), torch.full((1, 4), 192.0), rtol=0.001)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_exact_at_any_size(size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x, (weight, scale) = torch.randn(2, 512, generator=generator) * size, quantize(torch.randn(8, 512), 4)
    expected = x.double() @ dequantize(weight, scale, 4, torch.float64).T
    assert (onnx.exact_matmul(x, weight, scale, 4).double() - expected).norm() < 2e-6 * expected.norm()


def test_it_is_not_for_double() -> None:
    arguments = *quantize(torch.ones(4, 64), 4), 4
    assert onnx.supports(torch.ones(1, 64), *arguments)
    assert not onnx.supports(torch.ones(1, 64, dtype=torch.float64), *arguments)


def test_what_it_holds_goes_with_the_weight() -> None:
    weight, scale = quantize(torch.ones(4, 64), 4)
    before = len(onnx._sessions)
    onnx.fast_matmul(torch.ones(1, 64), weight, scale, 4)
    assert len(onnx._sessions) == before + 1
    del weight
    assert len(onnx._sessions) == before


@pytest.mark.skipif(sys.platform != "linux", reason="memory is given back on Linux alone")
@pytest.mark.parametrize("bits", [4, 8])
def test_weights_lie_in_memory_once_more_and_not_twice(bits: int) -> None:
    x = torch.randn(1, 8192)
    shape = (8192, 8192 * bits // 8)  # large enough for the allocator to give memory back, too
    weights = [(torch.randint(-128, 128, shape, dtype=torch.int8), torch.rand(8192)) for _ in range(4)]
    onnx.exact_matmul(x, *weights.pop(), bits)  # takes what is taken once
    before = resident_bytes()
    for weight, scale in weights:
        onnx.exact_matmul(x, weight, scale, bits)
    assert resident_bytes() - before < 1.5 * sum(weight.nbytes for weight, _ in weights)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is given back on Linux alone")
def test_a_session_that_needs_its_memory_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where onnxruntime does not rearrange a weight: its zeros are noticed, and it is made once more."""
    wanted = torch.full((1, 4), 64.0)
    started = []
    start = onnx._start

    def reads_its_memory(*arguments: Any) -> Any:
        run, memory = start(*arguments)
        started.append(memory)
        return lambda names, inputs: [run(names, inputs)[0] * (memory[0][0] > 0)], memory

    monkeypatch.setattr(onnx, "_start", reads_its_memory)
    weight, scale = quantize(torch.ones(4, 64), 4)
    assert torch.allclose(onnx.fast_matmul(torch.ones(1, 64), weight, scale, 4), wanted, rtol=0.01)
    assert len(started) == 2


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_in_a_step_the_cores_are_the_products_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch has one thread, the products as many as ever, and afterwards all is as before."""
    threads = torch.get_num_threads()
    started: list[Any] = []
    module = onnx._onnxruntime()
    assert module is not None
    options = module.SessionOptions

    def made() -> Any:
        started.append(options())
        return started[-1]

    monkeypatch.setattr(module, "SessionOptions", made)
    with onnx.one_thread_for_torch():
        assert torch.get_num_threads() == 1
        onnx.fast_matmul(torch.ones(1, 64), *quantize(torch.ones(4, 64), 4), 4)
    assert torch.get_num_threads() == threads
    assert {each.intra_op_num_threads for each in started} == {threads}


def test_steps_in_two_threads_leave_torch_as_it_was() -> None:
    threads = torch.get_num_threads()
    first, second = onnx.one_thread_for_torch(), onnx.one_thread_for_torch()
    with ThreadPoolExecutor(1) as other:
        first.__enter__()
        other.submit(second.__enter__).result()
        first.__exit__(None, None, None)
        other.submit(second.__exit__, None, None, None).result()
    assert torch.get_num_threads() == threads


def test_a_model_decodes_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "wanted", lambda: "onnxruntime")
    model = ChatGLMForCausalLM(ChatGLMConfig.preset("demo", num_layers=1)).quantize(4).eval()
    threads = []
    model.model.layers[0].register_forward_hook(lambda *_: threads.append(torch.get_num_threads()))
    model.generate(torch.tensor([[5, 6, model.config.gmask_token_id, model.config.bos_token_id]]), max_new_tokens=3)
    assert threads == [torch.get_num_threads(), 1, 1]
