"""What a program says and does before its slow imports are done: signals, an old Python, libraries that do not fit."""

import ast
import os
import shutil
import signal
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from glm_model.process import imports
from glm_model.process.beginning import PROGRAMS, begin
from tests.test_packaging import PYPROJECT

ROOT = Path(__file__).parents[2]
STARTED = {
    "web": ["web_demo.py", "--port=0"],
    "terminal": ["cli_demo.py", "--message=hi"],
    "fill": ["-m", "glm_model.fill", "a [MASK]"],
    "demo_recipe": ["-m", "demo_recipe", "evaluate"],
}
# The modules that an old Python gets to read before it is told that it is old.
FIRST = ["web_demo.py", "cli_demo.py", "app/__init__.py", "app/programs.py", "app/package_process.py",
         "glm_model/__init__.py", "demo_recipe/__init__.py",
         *(f"glm_model/process/{path.name}" for path in (ROOT / "glm_model" / "process").glob("*.py"))]  # fmt: skip

# Stands for every slow library: it tells that it is being imported, and takes for ever, in native code.
SLOW = """
import ctypes, os
os.write(1, b"importing\\n")
lock = ctypes.create_string_buffer(64)
for _ in range(2):
    ctypes.CDLL(None).pthread_mutex_lock(lock)
"""


def environment(**changes: object) -> dict[str, str]:
    return {**os.environ, **{name: str(value) for name, value in changes.items()}}


def importing(program: str, folder: Path, *, before: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    """Start a program and return it while it imports torch."""
    (folder / "torch.py").write_text(SLOW)
    (folder / "gradio.py").write_text(SLOW)
    process = subprocess.Popen(
        [*before, sys.executable, *STARTED[program]],
        cwd=ROOT, env=environment(PYTHONPATH=folder, TMPDIR=folder), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"importing\n"
    return process


@pytest.mark.parametrize("program", STARTED)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_ends_what_imports(program: str, number: signal.Signals, tmp_path: Path) -> None:
    process = importing(program, tmp_path)
    process.send_signal(number)
    errors = process.communicate(timeout=5)[1]
    expected = {signal.SIGINT: 130, signal.SIGTERM: -signal.SIGTERM}[number]
    assert (process.returncode, errors) == (0 if program == "web" else expected, b"")
    assert not list(tmp_path.glob("glm-*"))


@pytest.mark.parametrize(("program", "status"), [("web", 0), ("fill", 143)])
def test_a_signal_ends_process_1_while_it_imports(program: str, status: int, tmp_path: Path) -> None:
    namespace = ("unshare", "--pid", "--fork", "--kill-child")
    if not shutil.which("unshare") or subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("no new PID namespace can be made here (root can)")
    process = importing(program, tmp_path, before=namespace)
    first = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    os.kill(int(first), signal.SIGTERM)
    errors = process.communicate(timeout=5)[1]
    assert (process.returncode, errors) == (status, b"")


def test_a_signal_that_the_one_who_starts_a_program_ignores_stays_ignored(tmp_path: Path) -> None:
    process = importing("terminal", tmp_path, before=("env", "--ignore-signal=INT"))
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=5)
    assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize("file", FIRST)
def test_python_3_8_can_read_what_comes_first(file: str) -> None:
    ast.parse((ROOT / file).read_text(encoding="utf-8"), feature_version=(3, 8))


def old_pythons() -> list[str]:
    """One Python of each minor version before 3.11 that this machine has."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep)]
    folders += sorted(Path.home().glob(".pyenv/versions/3.*/bin"))
    found = {}
    for minor in (8, 9, 10):
        for python in (folder / f"python3.{minor}" for folder in folders):
            asked = subprocess.run([python, "-c", ""], capture_output=True) if python.is_file() else None
            if asked is not None and asked.returncode == 0:
                found[minor] = str(python)
    return list(found.values())


@pytest.mark.parametrize("program", STARTED)
def test_an_old_python_is_told_so(program: str) -> None:
    if not (pythons := old_pythons()):
        pytest.skip("there is no Python 3.8, 3.9 or 3.10 here")
    for python in pythons:
        command = [python, "-B", *STARTED[program]]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("Python 3.11 or newer is needed, and ")
        assert done.stderr.count("\n") == 1


def test_an_old_python_cannot_import_the_package() -> None:
    if not (pythons := old_pythons()):
        pytest.skip("there is no Python 3.8, 3.9 or 3.10 here")
    command = [pythons[-1], "-B", "-c", "import glm_model"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines()[-1].startswith("ImportError: Python 3.11 or newer is needed, and ")


# As torchvision does it in its first lines: it describes an operator that its own compiled part should have brought.
TORCHVISION = """
import torch
torch.library.register_fake("torchvision::nms")(lambda dets, scores, iou_threshold: None)
"""
TORCHAUDIO = 'raise OSError("libtorchaudio.so: undefined symbol: _ZN3c10")'


@pytest.mark.skipif(not find_spec("PIL"), reason="transformers imports torchvision only where Pillow is")
def test_a_torchvision_of_another_torch_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "torchvision.py").write_text(TORCHVISION)
    done = subprocess.run(
        [sys.executable, *STARTED["fill"]],
        cwd=ROOT, env=environment(PYTHONPATH=tmp_path), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "torchvision does not fit the installed torch, and transformers cannot be imported beside it; nothing here "
        f"needs it. Remove it: {sys.executable} -m pip uninstall -y torchvision torchaudio\n"
    )


def test_the_library_and_the_front_ends_say_so_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the seconds until transformers gets there."""
    (tmp_path / "torchaudio.py").write_text(TORCHAUDIO)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(imports.UnfitLibraryError, match=r"^torchaudio does not fit .* uninstall -y"), begin():
        import_module("torchaudio")
    with pytest.raises(SystemExit, match=r"^torchaudio does not fit .* uninstall -y"), imports.explained():
        import_module("torchaudio")


def said(error: BaseException, requirement: str = "glm-home") -> str:
    with pytest.raises(SystemExit) as end, imports.explained(requirement):
        raise error
    return str(end.value.code)


def test_a_release_that_does_not_fit_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    releases = {"torch": "2.5.1+cu124", "transformers": "5.23.0"}
    monkeypatch.setattr("importlib.metadata.version", releases.__getitem__)
    assert said(ImportError("no name 'x'", name="torch")).startswith(
        "torch 2.11 or newer is needed, and 2.5.1+cu124 is"
    )
    releases.update(torch="2.13.0", transformers="4.33.3")
    assert said(AttributeError("no 'y'")).startswith("transformers 5.17 or newer, before 6, is needed, and 4.33.3 is")
    releases.update(transformers="6.0.0")
    assert said(ImportError("no name 'x'")).startswith("transformers 5.17 or newer, before 6, is needed, and 6.0.0 is")


def test_the_releases_are_those_of_the_package() -> None:
    for name, (oldest, too_new) in imports.RELEASES.items():
        written = f"{name}>={'.'.join(map(str, oldest))}" + (f",<{too_new[0]}" if too_new else "")
        assert written in PYPROJECT["project"]["dependencies"]
    needed = ".".join(map(str, imports.OLDEST_PYTHON))
    assert PYPROJECT["project"]["requires-python"] == f">={needed}"


def test_a_library_that_transformers_misses_is_named() -> None:
    error = ModuleNotFoundError("Could not import module 'PreTrainedModel'")
    error.__cause__ = ModuleNotFoundError("No module named 'regex'", name="regex")
    assert said(error).startswith(f"regex is not installed for {sys.executable}: run\n  ")


def test_a_library_that_is_damaged_is_named() -> None:
    error = ImportError("libgomp.so.1: cannot open shared object file", name="sentencepiece._core")
    assert "sentencepiece cannot be imported by" in said(error)
    assert "libgomp.so.1" in said(error)


@pytest.mark.parametrize(
    "error",
    [ModuleNotFoundError("gone", name="glm_model.text"), ImportError("no name"), RuntimeError("a bug")],
    ids=repr,
)
def test_a_fault_of_ours_is_seen_whole(error: Exception) -> None:
    with pytest.raises(type(error)), imports.explained():
        raise error


def test_a_python_that_pip_does_not_install_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing = ModuleNotFoundError("No module named 'torch'", name="torch")
    assert "PIP_BREAK_SYSTEM_PACKAGES" not in said(missing)
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    (tmp_path / "EXTERNALLY-MANAGED").touch()
    assert "say PIP_BREAK_SYSTEM_PACKAGES=1" in said(missing)


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can leave files that others cannot delete")
@pytest.mark.parametrize("owner", [0, 1234], ids=["root", "somebody else"])
@pytest.mark.parametrize("program", ["web", "fill"])
def test_root_leaves_no_byte_code_in_a_checkout_of_somebody_else(program: str, owner: int, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    skip = shutil.ignore_patterns("__pycache__")
    for folder in ("app", "glm_model"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=skip)
    for file in ("web_demo.py", "requirements.txt"):
        shutil.copy(ROOT / file, checkout)
    os.chown(checkout, owner, owner)
    changed = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-S", *STARTED[program]],  # without libraries it ends soon
        cwd=checkout, env=changed, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "is not installed" in done.stderr
    assert bool(list(checkout.rglob("__pycache__"))) == (owner == 0)


def test_the_commands_of_the_wheel_are_known() -> None:
    scripts = PYPROJECT["project"]["scripts"]
    ours = {name: target.partition(".__main__")[0] for name, target in scripts.items() if "glm_app" not in target}
    assert ours == PROGRAMS
