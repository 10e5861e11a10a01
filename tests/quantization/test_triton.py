"""The Triton kernels where there is no GPU: what they compute, in Triton's interpreter, and that they compile."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

ROOT = Path(__file__).parents[2]


def old_triton() -> bool:
    """Whether there is one before 3.7."""
    try:
        return Version(version("triton")) < Version("3.7")
    except PackageNotFoundError:
        return False


@pytest.mark.skipif(old_triton(), reason="the interpreter of Triton 3.6 cannot loop with NumPy 2.4")
def test_in_the_interpreter() -> None:
    cases = Path(__file__).with_name("triton_cases.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-2000:]


@pytest.fixture
def triton_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Triton as a GPU would have it, with a cache of its own."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    return pytest.importorskip("triton")


# What a launch would tell the compiler of its arguments. Numbers of rows and the like are int32.
POINTERS = {"partial_ptr": "*fp32", "pairs_ptr": "*i32", "words_ptr": "*i32", "packed_ptr": "*i8", "scale_ptr": "*fp16"}


def compiled(triton: Any, kernel: Any, capability: int, dtype: str, warps: int, stages: int, **constants: Any) -> Any:
    """The machine code of a kernel for a GPU that need not be there."""
    pointers = {**POINTERS, **dict.fromkeys(("x_ptr", "bias_ptr", "out_ptr"), f"*{dtype}")}
    signature = {name: "constexpr" if name in constants else pointers.get(name, "i32") for name in kernel.arg_names}
    aligned = {(index,): [["tt.divisibility", 16]] for index, kind in enumerate(signature.values()) if "*" in kind}
    source = triton.compiler.ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"num_warps": warps, "num_stages": stages})


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("bits", [4, 8])
def test_it_compiles(triton_here: Any, bits: int, dtype: str, capability: int) -> None:
    """The interpreter takes more for granted than the compiler: types, constants, names from outside."""
    from glm_model.kernels import triton_dequantize, triton_fused

    for rows, kernel in ((1, triton_fused._one_row), (16, triton_fused._several_rows)):
        tile = triton_fused.tiles(rows)[0]
        sizes = {"bits": bits, "tile_outputs": tile.outputs, "tile_words": tile.words}
        sizes |= {"tile_rows": rows, "parts": 1} if rows > 1 else {}
        bias = {} if dtype == "fp16" else {"bias_ptr": None}
        made = compiled(triton_here, kernel, capability, dtype, tile.warps, tile.stages, **sizes, **bias)
        assert made.asm["cubin"]
        assert made.metadata.shared <= 48 << 10  # what every GPU has
        assert "st.local" not in made.asm["ptx"]
        # The tensor cores, for as many rows as they are made for.
        assert (("wgmma" if capability == 90 else "mma.sync") in made.asm["ptx"]) == (rows > 1)
    sums = {"parts": 4, "tile_outputs": 512}
    assert compiled(triton_here, triton_fused._add_up, capability, dtype, 4, 1, **sums).asm["cubin"]
    code = compiled(triton_here, triton_dequantize._dequantize, capability, dtype, 4, 1, bits=bits, tile=1024).asm
    assert code["cubin"]


def test_the_fastest_tile(triton_here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from glm_model.kernels import triton_tuning

    gpu, times, timed = torch.device("cuda", 0), {"a": 3.0, "b": 1.0, "c": 2.0}, []
    state = {"capturing": False, "free": 1 << 40}

    def do_bench(run: Callable[[], str], *durations: int, return_mode: str) -> float:
        timed.append(run())
        return times[timed[-1]]

    monkeypatch.setattr(triton_tuning, "do_bench", do_bench)
    monkeypatch.setattr(triton_tuning, "_found", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: state["capturing"])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (state["free"], 1 << 40))

    def fastest(shape: str, device: torch.device = gpu) -> str:
        return triton_tuning.fastest(shape, "abc", lambda tile: tile, device)

    state["capturing"] = True
    assert fastest("shape") == "a"
    state.update(capturing=False, free=1 << 20)
    assert fastest("shape") == "a"
    assert fastest("shape", torch.device("cpu")) == "a"
    assert not timed
    state["free"] = 1 << 40
    assert fastest("shape") == "b"
    assert timed == ["a", "b", "c"]
    times["b"] = 9.0
    assert fastest("shape") == "b"
    assert timed == ["a", "b", "c"], "remembered"
    assert fastest("another") == "c"


def test_a_tile_that_this_gpu_has_no_room_for(triton_here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime.errors import OutOfResources

    from glm_model.kernels import triton_tuning

    def do_bench(run: Callable[[], object], *durations: int, return_mode: str) -> float:
        raise OutOfResources(1 << 18, 1 << 16, "shared memory")

    monkeypatch.setattr(triton_tuning, "do_bench", do_bench)
    assert triton_tuning._time(lambda: None) == float("inf")
