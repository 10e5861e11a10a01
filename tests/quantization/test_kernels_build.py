"""How the native kernel comes to be: in the user's cache, once, safely; and what happens where it cannot."""

import _ctypes
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from glm_model.kernels import build, choice, dispatch, library_cache, native, onnx, reference
from glm_model.kernels.packing import quantize
from tests.quantization import cache_states

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "glm_model"
needs_compiler = pytest.mark.skipif(not any(map(shutil.which, build.COMPILERS)), reason="no C++ compiler")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, for this test alone, and nothing in its place."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", os.devnull)
    return tmp_path / "glm_home"


@pytest.fixture
def undecided(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process that has not chosen its kernel yet."""
    monkeypatch.delenv("GLM_KERNEL", raising=False)

    def forget() -> None:
        native.find.cache_clear()
        choice.wanted.cache_clear()

    forget()
    yield
    monkeypatch.undo()
    forget()


def fake_compiler(folder: Path, script: str) -> Path:
    """A compiler that is a shell script."""
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def made() -> Path:
    """A library that was made with the compiler of this machine."""
    found = native.find()
    assert isinstance(found, native.Library)
    return found.path


def copying_compiler(folder: Path, made: Path) -> Path:
    """A compiler that takes no time."""
    return fake_compiler(folder, f'[ "$1" = --version ] && exit; while [ "$1" != -o ]; do shift; done; cp {made} "$2"')


# Writes what can be loaded and is no kernel; enough for tests of the cache.
COUNTING = """
case "$*" in *--version) echo 'counting 1.0'; exit;; *kernels.cpp*) echo made >> {log}; sleep {seconds};; esac
while [ "$1" != -o ]; do shift; done
cp {any_library} "$2"
"""


def counting_compiler(folder: Path, seconds: float = 0) -> tuple[Path, Path]:
    """And the file in which each compilation leaves a line."""
    log = folder / "log"
    return fake_compiler(folder, COUNTING.format(log=log, seconds=seconds, any_library=_ctypes.__file__)), log


def test_it_is_made_once_and_only_in_the_cache(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, log = counting_compiler(tmp_path)
    monkeypatch.setenv("CXX", str(compiler))
    before = {path: path.stat().st_mtime_ns for path in PACKAGE.rglob("*") if "__pycache__" not in path.parts}
    library = build.build("avx2")
    assert build.build("avx2") == library
    assert library.parent == cache
    assert library.read_bytes() == Path(_ctypes.__file__).read_bytes()
    assert log.read_text() == "made\n"
    assert {path.name for path in cache.iterdir()} == {library.name, "build.lock"}
    after = {path: path.stat().st_mtime_ns for path in PACKAGE.rglob("*") if "__pycache__" not in path.parts}
    assert after == before


def test_its_name_follows_source_instructions_and_compiler(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler, _ = counting_compiler(tmp_path)
    monkeypatch.setenv("CXX", str(compiler))
    names = {build.build("avx2"), build.build("avx512")}
    compiler.write_text(compiler.read_text().replace("1.0", "1.1"))
    names.add(build.build("avx2"))
    copy = tmp_path / "csrc"
    copy.mkdir()
    for path in build.SOURCE.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "tiles.h").write_text((copy / "tiles.h").read_text() + "// changed\n")
    monkeypatch.setattr(build, "SOURCE", copy)
    names.add(build.build("avx2", copy / "kernels.cpp"))
    assert len(names) == 4


def test_two_processes_at_once_make_one(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, log = counting_compiler(tmp_path, seconds=0.3)
    monkeypatch.setenv("CXX", str(compiler))
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            build.build("avx2")
            os._exit(0)
        os._exit(1)
    library = build.build("avx2")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(cache.glob("*.so")) == [library]
    assert log.read_text() == "made\n"


def answer(precision: dispatch.Precision = "fast") -> tuple[str, str]:
    """A product is as right as the precision asks; the kernel that made it, and what is said of it."""
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    weight, scale = quantize(torch.randn(8, 64, generator=torch.Generator().manual_seed(1)), 4)
    expected = reference.matmul(x, weight, scale, 4)
    result = dispatch.quantized_matmul(x, weight, scale, 4, precision)
    assert (result - expected).abs().max() <= {"fast": 0.02, "exact": 1e-5}[precision] * expected.abs().max()
    return dispatch.choose(x, weight, scale, 4, precision).name, dispatch.describe(precision)


def without_compiler() -> str:
    """The kernel where there is no native one."""
    return "onnxruntime" if onnx.is_usable() else "reference"


@needs_compiler
@pytest.mark.usefixtures("undecided")
def test_native_is_used_and_said() -> None:
    for precision in ("exact", "fast"):
        name, line = answer(precision)
        assert name == "native"
        assert line.startswith("native kernel for ")
        assert line.endswith(precision)
        assert "\n" not in line


@pytest.mark.usefixtures("undecided", "cache")
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo fatal error: out of ideas >&2; exit 1", "out of ideas"),
        ("[ $1 = --version ] && exit; echo kernel.cpp:1: error: nonsense >&2; exit 1", "error: nonsense"),
        ("[ $1 = --version ] && exit; while [ $1 != -o ]; do shift; done; echo text > $2", "cannot be used"),
        (
            "[ $1 = --version ] && exit; while [ $1 != -o ]; do shift; done; head -c 9999 /bin/ls > $2",
            "cannot be used",
        ),
        ("exit 0", "has written nothing"),
        ("[ $1 = --version ] && exit; head -c 100000000 /dev/zero | tr '\\0' x; echo; exit 1", "exit status 1 (xxx"),
        ("[ $1 = --version ] && exit; kill -9 $$", "exit status -9"),
    ],
)
def test_a_broken_compiler_is_no_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    script: str,
    reason: str,
) -> None:
    monkeypatch.setenv("CXX", str(fake_compiler(tmp_path, script)))
    name, line = answer()
    assert name == without_compiler()
    assert name in line
    assert reason in line
    assert "\n" not in line
    assert [reason in record.getMessage() for record in caplog.records] == [True], "said once"


@pytest.mark.usefixtures("undecided", "cache")
def test_no_compiler_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build, "find_spec", lambda name: None)
    for precision in ("exact", "fast"):
        name, line = answer(precision)
        assert name == without_compiler()
        assert name in line
        assert "no C++ compiler" in line
        assert "pip install ziglang" in line


def test_a_compiler_in_a_wheel(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It serves where there is no other, and the user hears of the wait, once."""
    script, log = counting_compiler(tmp_path)
    package = tmp_path / "site" / "ziglang"
    package.mkdir(parents=True)
    run = f"import subprocess, sys; sys.exit(subprocess.run(['/bin/sh', {str(script)!r}, *sys.argv[2:]]).returncode)"
    (package / "__main__.py").write_text(run)
    (package / "__init__.py").touch()
    script.write_text(script.read_text().replace("made", "$*"))
    monkeypatch.setenv("CXX", str(script))
    other = build.build("neon")
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(build, "COMPILERS", ("no-such-compiler",))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert build.find_compiler() == [sys.executable, "-m", "ziglang", "c++"]
    library = build.build("neon")
    assert build.build("neon") == library != other
    assert log.read_text().count("-march=armv8.2-a+dotprod") == 1
    assert log.read_text().count("-mcpu=generic+dotprod") == 1
    assert [record.getMessage() for record in caplog.records if "ziglang" in record.getMessage()] == [
        "compiling the kernel for INT4 and INT8 with ziglang: a minute or two, this once"
    ]


@pytest.mark.usefixtures("undecided", "cache")
def test_a_cache_that_cannot_be_made_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(counting_compiler(tmp_path)[0]))
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    name, line = answer()
    assert name == without_compiler()
    assert f"the cache {tmp_path / 'file' / 'glm_home'} cannot be used" in line
    assert f"the cache {os.devnull}/glm_home" in line


@pytest.mark.parametrize("home", [None, "file"], ids=["unknown", "not writable"])
def test_a_user_without_a_home_has_a_temporary_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    monkeypatch.setenv("CXX", str(counting_compiler(tmp_path)[0]))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if home is None:
        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user whom the system does not know
    else:
        (tmp_path / home).write_text("in the way")
        monkeypatch.setenv("HOME", str(tmp_path / home))
    library = build.build("avx2")
    assert library.parent == tmp_path / f"glm_home-{os.getuid()}"
    assert library.parent.stat().st_mode & 0o777 == 0o700
    assert build.build("avx2") == library


def test_the_named_compiler_may_have_arguments(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, log = counting_compiler(tmp_path)
    compiler.write_text(compiler.read_text().replace("made", "$*"))
    monkeypatch.setenv("CXX", f"{compiler} -DWITH=1")
    library = build.build("avx2")
    assert log.read_text().startswith("-DWITH=1 -std=c++17 ")
    monkeypatch.setenv("CXX", str(compiler))
    assert build.build("avx2") != library


def test_the_named_compiler_may_lie_in_a_folder_with_a_space(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my compilers"
    folder.mkdir()
    monkeypatch.setenv("CXX", f"'{counting_compiler(folder)[0]}' -O2")
    assert build.build("avx2").parent == cache


def test_a_relative_cache_home_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the XDG base directory specification has it; otherwise libraries would lie wherever one works."""
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert library_cache.places()[0].folder == Path.home() / ".cache" / "glm_home"


def test_a_cache_from_which_nothing_may_run(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(counting_compiler(tmp_path)[0]))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    flags = SimpleNamespace(f_flag=os.ST_NOEXEC)
    statvfs = os.statvfs
    monkeypatch.setattr(os, "statvfs", lambda folder: flags if Path(folder) == cache else statvfs(folder))
    assert build.build("avx2").parent == tmp_path / f"glm_home-{os.getuid()}"


def test_a_cache_without_space(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = counting_compiler(tmp_path)[0].read_text()
    full = f'case "$*" in *{cache}/*) echo "ld: final link failed: No space left on device" >&2; exit 1;; esac\n'
    first, rest = script.split("\n", 1)
    monkeypatch.setenv("CXX", str(fake_compiler(tmp_path, f"{first}\n{full}{rest}")))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert build.build("avx2").parent == tmp_path / f"glm_home-{os.getuid()}"


@needs_compiler
@pytest.mark.usefixtures("undecided")
def test_a_cache_that_others_may_write_is_refused(
    made: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(copying_compiler(tmp_path, made)))
    cache.mkdir()
    cache.chmod(0o777)
    assert answer()[0] == "native"
    found = native.find()
    assert isinstance(found, native.Library)
    assert found.path.parent == cache.parent / f"glm_home-{os.getuid()}"


@pytest.mark.usefixtures("undecided", "cache")
@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ('"', 'CXX=" is no command'),
        ("false", "CXX=false failed: exit status 1"),
        ("true", "CXX=true has written nothing"),
        ("/no/such/compiler -O2", "CXX=/no/such/compiler was not found"),
        (".", "CXX=. was not found"),
        ("g++ -m32 -O0", "CXX=g++ -m32 -O0"),
    ],
)
def test_a_name_of_no_compiler_is_no_error(monkeypatch: pytest.MonkeyPatch, named: str, reason: str) -> None:
    monkeypatch.setenv("CXX", named)
    name, line = answer()
    assert name == without_compiler()
    assert reason in line
    assert "\n" not in line


@pytest.mark.usefixtures("undecided", "cache")
def test_a_compiler_that_hangs_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_QUICK_TIMEOUT", 1)
    script = f"[ $1 = --version ] && exit; sleep 1234 & echo $! > {tmp_path}/child; sleep 1234"
    monkeypatch.setenv("CXX", str(fake_compiler(tmp_path, script)))
    assert "has not ended after 1 seconds" in answer()[1]
    child = Path("/proc", (tmp_path / "child").read_text().strip(), "stat")
    assert not child.exists() or child.read_text().split()[2] == "Z"


def test_a_c_compiler_is_told_of_the_library_of_cpp() -> None:
    for name in ("gcc", "/usr/bin/gcc-12", "cc", "clang-17", "x86_64-linux-gnu-gcc"):
        assert build._libraries([name, "-O3"]) == build._libraries(["ccache", name]) == ["-lstdc++"]
    for name in ("g++", "clang++", "/usr/bin/c++", "ccache", "icpx"):
        assert build._libraries([name]) == []


@pytest.mark.parametrize("home", ["", "relative"])
def test_a_home_that_is_no_path_from_the_root_holds_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    """It would lie below wherever one works."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CXX", str(counting_compiler(tmp_path)[0]))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", home)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    assert build.build("avx2").parent == tmp_path / "temporary" / f"glm_home-{os.getuid()}"
    assert not (tmp_path / "relative").exists()
    assert not (tmp_path / ".cache").exists()


@needs_compiler
def test_no_state_of_the_cache_ends_a_start_and_the_second_one_is_fast() -> None:
    """Some kinds; `python -m tests.quantization.cache_states` goes through many states of all."""
    kinds = ["cut", "flip", "owner", "link", "pipe", "other_layout", "eight at once", "two users", "full", "compilers"]
    assert set(kinds) <= set(cache_states.KINDS)
    command = [sys.executable, "-m", "tests.quantization.cache_states", f"--count={len(kinds)}", *kinds]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_compiler
@pytest.mark.usefixtures("undecided")
def test_a_library_that_cannot_be_loaded_any_more_is_made_again(
    made: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As one that was linked with a newer C library, where machines share a home."""
    compiler = copying_compiler(tmp_path, made)
    monkeypatch.setenv("CXX", str(compiler))
    first = native.find()
    assert isinstance(first, native.Library)
    forged = library_cache.keep(cache, first.path.stem[:-33], Path(shutil.copy(_ctypes.__file__, tmp_path)))
    first.path.unlink()
    native.find.cache_clear()
    again = native.find()
    assert isinstance(again, native.Library)
    assert again.path == first.path
    assert not forged.exists()
    assert [f"{forged} is no kernel of this package" in record.getMessage() for record in caplog.records] == [True]


@needs_compiler
@pytest.mark.usefixtures("undecided", "cache")
def test_a_library_that_dies_while_it_multiplies_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one whose compiler was told to use instructions that this CPU lacks."""
    source = tmp_path / "dies.cpp"
    source.write_text('extern "C" int glm_matmul() { __builtin_trap(); }')
    compiler = shutil.which("g++") or shutil.which("c++")
    script = f"[ $1 = --version ] && exit; while [ $1 != -o ]; do shift; done; {compiler} -fPIC -shared {source} -o $2"
    monkeypatch.setenv("CXX", str(fake_compiler(tmp_path, script)))
    name, line = answer()
    assert name == without_compiler()
    assert "made a library that cannot be used (exit status -4)" in line


@needs_compiler
@pytest.mark.usefixtures("undecided")
def test_a_library_that_is_cut_while_it_is_in_use(
    made: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(os, "memfd_create"):
        pytest.skip("no files in memory here")
    monkeypatch.setenv("CXX", str(copying_compiler(tmp_path, made)))
    found = native.find()
    assert isinstance(found, native.Library)
    assert found.path.parent == cache
    os.truncate(found.path, 0)
    assert answer()[0] == "native"


@needs_compiler
@pytest.mark.usefixtures("undecided", "cache")
def test_a_compiler_that_makes_no_library_is_found_before_the_kernel_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler, log = counting_compiler(tmp_path)
    compiler.write_text(compiler.read_text().replace("cp ", "head -c 5000 ").replace('"$2"', '> "$2"'))
    monkeypatch.setenv("CXX", str(compiler))
    for _ in range(2):
        native.find.cache_clear()
        assert "made a library that cannot be used" in answer()[1]
        assert not log.exists()


@pytest.mark.usefixtures("undecided", "cache")
def test_what_a_compiler_says_is_one_line_for_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "printf '\\033]52;c;eA==\\007 error: a\\rb\\302\\205c %s' \"$(head -c 9999 /dev/zero | tr '\\0' x)\"; exit 1"
    )
    monkeypatch.setenv("CXX", f"{fake_compiler(tmp_path, script)} 'a\n\x1b[2Jb\udcff' {'-O2 ' * 999}")
    line = answer()[1]
    assert "?]52;c;eA==? error: a" in line
    assert line.isprintable()
    assert len(line) < 1000


def test_a_library_for_this_cpu_alone_is_not_taken_on_another(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CXX may hold -march=native, and machines may share a home."""
    monkeypatch.setenv("CXX", str(counting_compiler(tmp_path)[0]))
    here = build.build("avx2")
    capabilities = {**torch.cpu.get_capabilities(), "avx512_fp16": "another", "l1d_cache_size": 1}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert build.build("avx2") == here, "what is no instruction set counts nothing"
    capabilities["new_instructions"] = True
    assert build.build("avx2") != here


def test_killed_builders_leave_nothing_and_living_ones_are_left_alone(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(counting_compiler(tmp_path)[0]))
    cache.mkdir(0o700)
    for name in ("build-killed", "peers"):
        (cache / name).mkdir()
        (cache / name / "half.so").touch()
        os.utime(cache / name, (0, 0))
    with library_cache.unfinished_folder(cache) as living:
        (living / "half.so").touch()
        os.utime(living, (0, 0))
        library = build.build("avx2")
        assert {path.name for path in cache.iterdir()} == {library.name, "build.lock", "peers", living.name}
        assert (living / "half.so").exists()


def test_a_whole_library_is_found_in_any_place_before_one_is_made(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first place may be full at each start."""
    compiler, log = counting_compiler(tmp_path)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    cache.touch()
    (tmp_path / f"glm_home-{os.getuid()}").mkdir(0o755)
    library = build.build("avx2")
    cache.unlink()
    assert build.build("avx2") == library
    assert not cache.exists()
    assert log.read_text() == "made\n"


def test_places_that_are_not_there_are_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(counting_compiler(tmp_path)[0]))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    with pytest.raises(
        build.BuildError, match=r"there is no such folder: '.*home'; .*; set XDG_CACHE_HOME to a folder"
    ):
        build.build("avx2")
    assert not (tmp_path / "home").exists()
    assert not (tmp_path / "temporary").exists()
    monkeypatch.setenv("TMPDIR", "relative")
    assert library_cache.places()[-1].base == Path("/tmp")


@pytest.mark.usefixtures("undecided", "cache")
def test_a_cpu_without_kernel_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "instruction_sets", list)
    name, line = answer()
    assert name == without_compiler()
    assert "this CPU" in line


@needs_compiler
@pytest.mark.usefixtures("undecided")
@pytest.mark.usefixtures("cache")
def test_a_library_that_computes_nonsense_is_refused(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(copying_compiler(tmp_path, made)))
    monkeypatch.setattr(reference, "matmul", lambda x, weight, scale, bits: x.new_ones(len(x), len(weight)))
    found = native.find()
    assert isinstance(found, build.BuildError)
    assert "something else" in str(found)


@pytest.mark.usefixtures("undecided")
@pytest.mark.parametrize("name", ["native", "onnxruntime", "reference"])
def test_the_user_may_choose(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("GLM_KERNEL", name)
    used, line = answer()
    if name == "native" and not native.is_usable():
        pytest.skip("no native kernel here")
    assert used == (name if name != "onnxruntime" or onnx.is_usable() else "reference")
    assert used in line


@pytest.mark.usefixtures("undecided")
def test_an_unknown_choice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM_KERNEL", "fastest")
    with pytest.raises(ValueError, match="GLM_KERNEL is 'fastest'; it must be one of auto, native"):
        answer()


@pytest.mark.usefixtures("undecided")
def test_torch_compile_sees_one_node() -> None:
    x, (weight, scale) = torch.randn(2, 64), quantize(torch.randn(8, 64), 4)

    def product(x: torch.Tensor) -> torch.Tensor:
        return dispatch.quantized_matmul(x, weight, scale, 4, "fast") * 2

    compiled = torch.compile(product, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), product(x))


def test_instruction_set_is_the_users_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    available = ["avx512", "avx2"]
    monkeypatch.delenv("GLM_INSTRUCTIONS", raising=False)
    assert choice.wanted_instructions(available) == available
    monkeypatch.setenv("GLM_INSTRUCTIONS", "avx2")
    assert choice.wanted_instructions(available) == ["avx2"]
    monkeypatch.setenv("GLM_INSTRUCTIONS", "neon")
    with pytest.raises(ValueError, match="'neon'; on this CPU it can be auto or one of avx512, avx2"):
        choice.wanted_instructions(available)
