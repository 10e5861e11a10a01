"""What the project says it needs: pinned for `make`, in ranges for pip, and nothing imported that is not said."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.test_imports import OURS, imports, sources, top

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins(file: str) -> dict[str, str]:
    """Name and version of every line `name==version`, with or without a marker."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    stated = [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]
    assert all(str(requirement.specifier).startswith("==") for requirement in stated)
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in stated}


def declared(*extras: str) -> dict[str, Requirement]:
    """The requirements of pyproject.toml, those of some extras included."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-test.txt"])
def test_direct_pins_are_those_of_the_tested_environment(file: str) -> None:
    tested = pins("constraints.txt")
    assert pins(file).items() <= tested.items()
    assert all(re.fullmatch(r"[\d.]+", version) for version in tested.values())


def test_pins_lie_in_the_declared_ranges() -> None:
    pinned = pins("requirements.txt") | pins("requirements-test.txt")
    ranges = declared("web", "terminal", "recipe", "onnxruntime", "triton", "test")
    assert ranges.keys() == pinned.keys()
    assert not [name for name, version in pinned.items() if version not in ranges[name].specifier]


@pytest.mark.parametrize(
    ("package", "extras"),
    [
        ("glm_model", ["onnxruntime", "triton", "cpm-kernels", "eval"]),
        ("app", ["web", "terminal"]),
        ("demo_recipe", ["recipe"]),
    ],
)
def test_what_is_imported_is_declared(package: str, extras: list[str]) -> None:
    known = {*sys.stdlib_module_names, *OURS, package}
    foreign = {top(name) for path in sources(package) for name in imports(path)} - known
    distributions = packages_distributions()
    # What is optional may not be installed; its distribution has the module's name.
    needed = {canonicalize_name(distributions.get(module, [module])[0]) for module in foreign}
    assert needed <= declared(*extras).keys()


@pytest.mark.parametrize("script", ["cli_demo.py", "web_demo.py"])
def test_a_script_without_its_libraries_says_how_to_get_them(script: str) -> None:
    bare = [sys.executable, "-S", script]  # without site-packages
    done = subprocess.run(bare, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "is not installed" in done.stderr
    assert "requirements.txt" in done.stderr
    assert "Traceback" not in done.stderr
