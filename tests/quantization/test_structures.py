"""The structures of csrc/ and their twins in Python: where they differ the library is not used, and says so."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from glm_model.kernels import build, dispatch, native, structures
from glm_model.kernels.packing import quantize

pytestmark = pytest.mark.skipif(not native.is_usable(), reason="no native kernel here")
NAMES = ["Linear", "Norm", "Layer", "Heads", "Decoder", "KeysAndValues", "Sequence", "Step"]


def compiled(folder: Path, change: Callable[[str, str], str] = lambda name, text: text) -> ctypes.CDLL:
    """The kernel from changed sources (of the name and the text of each file), without optimisation."""
    sources = folder / "csrc"
    shutil.copytree(build.SOURCE, sources)
    for path in sources.iterdir():
        path.write_text(change(path.name, path.read_text(encoding="utf-8")), encoding="utf-8")
    library = folder / "kernels.so"
    options = ["-std=c++17", "-O0", "-fPIC", "-shared", *build.INSTRUCTION_SETS[build.instruction_sets()[0]][1]]
    command = [*build.find_compiler(), *options, str(sources / "kernels.cpp"), "-o", str(library)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    return ctypes.CDLL(str(library))


def twin(name: str, extra: type) -> type[ctypes.Structure]:
    """The structure of this name with one more field at its end."""
    known = next(structure for structure in structures.STRUCTURES if structure.__name__ == name)
    return type(name, (ctypes.Structure,), {"_fields_": (*known._fields_, ("extra", extra))})


def test_the_library_says_what_python_says() -> None:
    lines = structures.layout().splitlines()
    assert lines[0] == f"abi {structures.ABI}"
    assert [line.split()[0] for line in lines[1:]] == NAMES
    handle = ctypes.CDLL(str(native.found().path))
    handle.glm_layout.restype = ctypes.c_char_p
    assert handle.glm_layout().decode() == structures.layout()
    assert not structures.differences(handle.glm_layout().decode())


@pytest.fixture
def _undecided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process that has not chosen its kernel yet, with an empty cache and a compiler that takes no time."""
    made = native.found().path
    compiler = tmp_path / "compiler"
    compiler.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && exit\nwhile [ "$1" != -o ]; do shift; done\ncp {made} "$2"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    native.find.cache_clear()
    yield
    native.find.cache_clear()


@pytest.mark.usefixtures("_undecided")
@pytest.mark.parametrize("extra", [ctypes.c_int64, ctypes.c_int], ids=["eight bytes", "in the padding"])
@pytest.mark.parametrize("name", NAMES)
def test_a_field_on_pythons_side_alone(
    name: str, extra: type, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    changed = [twin(name, extra) if known.__name__ == name else known for known in structures.STRUCTURES]
    monkeypatch.setattr(structures, "STRUCTURES", tuple(changed))
    x, (weight, scale) = torch.randn(2, 64), quantize(torch.randn(8, 64), 4)
    assert dispatch.choose(x, weight, scale, 4).name != "native"
    line = dispatch.describe()
    assert f"takes other structures than glm_model/kernels/structures.py describes ({name})" in line
    assert "\n" not in line
    assert [f"({name})" in record.getMessage() for record in caplog.records] == [True], "said once"


@pytest.mark.usefixtures("_undecided")
def test_another_abi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structures, "ABI", structures.ABI + 1)
    assert not native.is_usable()
    assert "(abi)" in dispatch.describe()


def test_fields_that_change_places_are_seen() -> None:
    keys = "KeysAndValues 24: keys 0+8, values 8+8"
    assert keys in structures.layout()
    text = (
        structures.layout()
        .replace(keys, "KeysAndValues 24: values 0+8, keys 8+8")
        .replace(f"abi {structures.ABI}", "abi 7")
    )
    assert structures.differences(text) == ["KeysAndValues", "abi"]
    assert structures.differences("") == sorted([*NAMES, "abi"])


def test_a_field_of_the_library_alone(tmp_path: Path) -> None:
    """In the padding behind the last field, so that neither the size nor another offset changes."""

    def change(name: str, text: str) -> str:
        text = text.replace(
            "    Type type;                    // of all keys and values", "    Type type;\n    int extra;"
        )
        return text.replace("sequences, caches, type);", "sequences, caches, type, extra);")

    handle = compiled(tmp_path, change)
    with pytest.raises(build.BuildError, match=r"takes other structures .* \(Step\)"):
        native._require_same_layout(handle, tmp_path / "kernels.so")


def test_a_field_that_the_library_keeps_to_itself_is_an_error_of_the_compiler(tmp_path: Path) -> None:
    def change(name: str, text: str) -> str:
        return text.replace("    int64_t head_stride;", "    int64_t head_stride;\n    int extra;")

    with pytest.raises(subprocess.CalledProcessError) as failure:
        compiled(tmp_path, change)
    assert "KeysAndValues" in failure.value.stderr or "4 elements" in failure.value.stderr


def test_a_library_that_says_nothing(tmp_path: Path) -> None:
    """As one of an older version in whose place another was put."""

    def change(name: str, text: str) -> str:
        return text.replace("glm_layout", "glm_other")

    handle = compiled(tmp_path, change)
    with pytest.raises(build.BuildError, match="is no kernel of this package"):
        native._require_same_layout(handle, tmp_path / "kernels.so")
