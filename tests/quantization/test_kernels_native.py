"""The native kernels against dequantize-then-multiply in float64, for every instruction set of this CPU."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from glm_model.kernels import build, choice, native
from glm_model.kernels.packing import dequantize, quantize

CHECK = Path(__file__).parent / "check_matmul.cpp"
CHECK_THREADS = Path(__file__).parent / "check_threads.cpp"
pytestmark = pytest.mark.skipif(not any(map(shutil.which, build.COMPILERS)), reason="no C++ compiler")
# Rows, columns, outputs: few rows and many; columns and outputs that fill no vector and no tile.
SHAPES = [(1, 4096, 96), (2, 2, 1), (3, 90, 7), (5, 512, 35), (9, 1000, 33), (32, 258, 65), (33, 66, 9), (100, 770, 37)]
EXACT, FAST = False, True


@pytest.fixture(scope="module", params=choice.wanted_instructions(build.instruction_sets()))
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> native.Library:
    """Compiled here and now, into a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return native.load(build.build(request.param))


def example(rows: int, columns: int, outputs: int, bits: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Normal activations, packed weights and scales."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator)
    return x, *quantize(torch.randn(outputs, columns, generator=generator).half(), bits)


def with_outliers(x: Tensor) -> Tensor:
    """Some columns a hundred times as large, as the GLM-130B paper reports of its activations."""
    outliers = torch.randperm(x.shape[-1], generator=torch.Generator().manual_seed(2))[: max(1, x.shape[-1] // 500)]
    x = x.clone()
    x[:, outliers] *= 100
    return x


def relative_error(result: Tensor, x: Tensor, weight: Tensor, scale: Tensor, bits: int) -> float:
    """Of a product, against float64, in units of the size that sums of such terms have: what cancels counts too."""
    dense = dequantize(weight, scale, bits, torch.float64)
    size = (x.double().square() @ dense.square().T).sqrt()
    return ((result.double() - x.double() @ dense.T).norm() / size.norm()).item()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_exact_is_dequantize_then_multiply(library: native.Library, shape: tuple[int, int, int], bits: int) -> None:
    x, weight, scale = example(*shape, bits)
    # All positive: weights that are kept with an offset must not lose precision where it adds up.
    for activations in (x, with_outliers(x), x.abs() + 1, x * 1e-20):
        out = native.product(library, activations, weight, scale, bits, None, EXACT)
        assert relative_error(out, activations, weight, scale, bits) < 2e-6


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fast_is_within_two_percent(library: native.Library, shape: tuple[int, int, int], bits: int) -> None:
    x, weight, scale = example(*shape, bits)
    for activations, bound in ((x, 0.01), (with_outliers(x), 0.02)):
        out = native.product(library, activations, weight, scale, bits, None, FAST)
        assert relative_error(out, activations, weight, scale, bits) < bound


@pytest.mark.parametrize("bits", [4, 8])
def test_fast_has_the_same_bits_for_any_number_of_rows(library: native.Library, bits: int) -> None:
    x, weight, scale = example(34, 4600, 37, bits)
    alone = torch.cat([native.product(library, row, weight, scale, bits, None, FAST) for row in x.split(1)])
    for rows in range(2, 35):
        assert torch.equal(native.product(library, x[:rows], weight, scale, bits, None, FAST), alone[:rows])


@pytest.mark.parametrize("bits", [4, 8])
def test_drawn_shapes(library: native.Library, bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    for seed in range(25):
        rows, half_columns, outputs = (int(torch.randint(1, high, (1,), generator=generator)) for high in (40, 400, 90))
        x, weight, scale = example(rows, 2 * half_columns, outputs, bits, seed)
        for quantized, bound in ((EXACT, 2e-6), (FAST, 0.02)):
            out = native.product(library, x, weight, scale, bits, None, quantized)
            assert relative_error(out, x, weight, scale, bits) < bound, (rows, 2 * half_columns, outputs)


def test_eight_bits_take_an_odd_number_of_columns(library: native.Library) -> None:
    x, weight, scale = example(4, 301, 5, 8)
    assert relative_error(native.product(library, x, weight, scale, 8, None, EXACT), x, weight, scale, 8) < 2e-6


@pytest.mark.parametrize("bits", [4, 8])
def test_every_stored_integer_is_read(library: native.Library, bits: int) -> None:
    """All 256 bytes, -128 and the nibble -8 among them, which the published quantization never writes."""
    weight = torch.arange(-128, 128, dtype=torch.int8).repeat(2, 3)
    weight[1] = weight[1].flip(0)
    x = torch.randn(3, weight.shape[1] * 8 // bits, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor([0.5, 2.0])
    assert relative_error(native.product(library, x, weight, scale, bits, None, EXACT), x, weight, scale, bits) < 2e-6
    assert relative_error(native.product(library, x, weight, scale, bits, None, FAST), x, weight, scale, bits) < 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("quantized", [EXACT, FAST])
def test_half_types_are_float32_rounded_once(library: native.Library, dtype: torch.dtype, quantized: bool) -> None:
    for rows in (3, 20):
        x, weight, scale = example(rows, 300, 37, 4)
        bias = torch.randn(37, generator=torch.Generator().manual_seed(5)).to(dtype)
        x = x.to(dtype)
        expected = native.product(library, x.float(), weight, scale.float(), 4, bias.float(), quantized).to(dtype)
        assert torch.equal(native.product(library, x, weight, scale, 4, bias, quantized), expected)


def test_bias_is_added(library: native.Library) -> None:
    x, weight, scale = example(10, 64, 33, 8)
    bias = torch.randn(33, generator=torch.Generator().manual_seed(1))
    without = native.product(library, x, weight, scale, 8, None, EXACT)
    torch.testing.assert_close(native.product(library, x, weight, scale, 8, bias, EXACT), without + bias)


@pytest.mark.parametrize("quantized", [EXACT, FAST])
@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_not_hidden(library: native.Library, quantized: bool, poison: float) -> None:
    for bits in (4, 8):
        x, weight, scale = example(2, 300, 40, bits)
        x[1, 123] = poison
        weight[weight == 0] = 1
        out = native.product(library, x, weight, scale, bits, None, quantized)
        assert out[0].isfinite().all()
        assert not out[1].isfinite().any()


def test_zeros_and_tiny_activations(library: native.Library) -> None:
    _, weight, scale = example(1, 256, 8, 4)
    x = torch.stack([torch.zeros(256), torch.full((256,), 1e-42), torch.full((256,), 1e-30)])
    out = native.product(library, x, weight, scale, 4, None, FAST)
    assert not out[0].any()
    assert (out[1].abs() < 1e-37).all()
    assert relative_error(out[2:] * 1e30, x[2:] * 1e30, weight, scale, 4) < 0.01


@pytest.mark.parametrize("quantized", [EXACT, FAST])
def test_a_row_does_not_depend_on_its_neighbours(library: native.Library, quantized: bool) -> None:
    x, weight, scale = example(100, 1024, 70, 4)
    together = native.product(library, x, weight, scale, 4, None, quantized)
    for row in (0, 57, 99):
        alone = native.product(library, x[row : row + 1], weight, scale, 4, None, quantized)
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("quantized", [EXACT, FAST])
def test_threads_change_nothing(library: native.Library, quantized: bool) -> None:
    before = torch.get_num_threads()
    try:
        for rows in (1, 30):
            x, weight, scale = example(rows, 1024, 500, 4)
            torch.set_num_threads(1)
            one = native.product(library, x, weight, scale, 4, None, quantized)
            torch.set_num_threads(2)
            assert torch.equal(native.product(library, x, weight, scale, 4, None, quantized), one)
    finally:
        torch.set_num_threads(before)


def test_it_shares_torchs_threads(library: native.Library) -> None:
    assert library.shares_threads


def test_shapes_and_strides(library: native.Library) -> None:
    x, weight, scale = example(6, 64, 9, 8)
    expected = native.product(library, x, weight, scale, 8, None, EXACT)
    cube = native.product(library, x.reshape(2, 3, 64), weight, scale, 8, None, EXACT)
    assert torch.equal(cube, expected.reshape(2, 3, 9))
    assert torch.equal(native.product(library, x.T.contiguous().T, weight, scale, 8, None, EXACT), expected)
    assert native.product(library, x[:0], weight, scale, 8, None, FAST).shape == (0, 9)
    assert native.product(library, x[0], weight, scale, 8, None, EXACT).shape == (9,)


def test_mapped_read_only_weights_at_any_address(library: native.Library, tmp_path: Path) -> None:
    x, weight, scale = example(3, 512, 40, 4)
    expected = native.product(library, x, weight, scale, 4, None, FAST)
    (tmp_path / "file").write_bytes(b"x" * 13 + weight.numpy().tobytes())
    mapped = np.memmap(tmp_path / "file", dtype=np.int8, mode="c", offset=13, shape=tuple(weight.shape))
    assert torch.equal(native.product(library, x, torch.from_numpy(mapped), scale, 4, None, FAST), expected)


def test_instruction_sets_agree(tmp_path_factory: pytest.TempPathFactory, library: native.Library) -> None:
    """Activations are rounded in the same way everywhere, so even `fast` differs by the order of summation only."""
    x, weight, scale = example(3, 1000, 30, 4)
    best = native.find()
    if not isinstance(best, native.Library):
        pytest.skip("no native kernel here")
    torch.testing.assert_close(
        native.product(library, x, weight, scale, 4, None, FAST),
        native.product(best, x, weight, scale, 4, None, FAST),
        rtol=1e-4,
        atol=1e-3,
    )


def run_check(compiler: list[str], options: list[str], emulator: list[str], program: Path) -> str:
    """Compile and run check_matmul.cpp; its line."""
    command = [*compiler, "-std=c++17", *options, f"-I{build.SOURCE}", str(CHECK), "-o", str(program)]
    subprocess.run(command, check=True, timeout=240, capture_output=True)
    done = subprocess.run([*emulator, str(program)], timeout=120, capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr
    return done.stdout


def run_thread_check(program: Path) -> None:
    """Compile check_threads.cpp with the thread sanitizer and run it."""
    options = ["-std=c++17", "-O1", "-g", "-fsanitize=thread", "-pthread", f"-I{build.SOURCE}"]
    subprocess.run([*build.find_compiler(), *options, str(CHECK_THREADS), "-o", str(program)], check=True, timeout=120)
    done = subprocess.run([str(program)], timeout=120, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "every task once\n"), done.stdout + done.stderr


def test_threads_work_together(tmp_path: Path) -> None:
    run_thread_check(tmp_path / "check")


def test_memory_is_respected(tmp_path: Path) -> None:
    """Under the address and undefined-behaviour sanitizers; reads past the end of the weights would be seen."""
    sanitizers = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover"]
    options = build.INSTRUCTION_SETS[build.instruction_sets()[0]][1]
    assert "fast" in run_check(build.find_compiler(), [*sanitizers, *options], [], tmp_path / "check")


@pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-g++") and shutil.which("qemu-aarch64-static")),
    reason="needs g++-aarch64-linux-gnu and qemu-user-static to run ARM's instructions",
)
def test_neon_in_an_emulator(tmp_path: Path) -> None:
    options = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-static", *build.INSTRUCTION_SETS["neon"][1]]
    line = run_check(["aarch64-linux-gnu-g++"], options, ["qemu-aarch64-static"], tmp_path / "check")
    assert line.startswith("NEON")
