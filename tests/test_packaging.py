"""What the project says it needs, pinned for `make` and in ranges for pip; and what its wheel installs."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import glm_model
from glm_model.__main__ import PROGRAMS
from tests.test_imports import OURS, imports, sources, top

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
PACKED = ["glm_model", "app", "models", "pyproject.toml", "README.md", "LICENSE", "NOTICE"]
"""What a wheel is made of."""


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
    ranges = declared("web", "recipe", "onnxruntime", "triton", "test")
    assert ranges.keys() == pinned.keys()
    assert not [name for name, version in pinned.items() if version not in ranges[name].specifier]


@pytest.mark.parametrize(
    ("package", "extras"),
    [
        ("glm_model", ["onnxruntime", "triton", "cpm-kernels", "eval"]),
        ("app", ["web"]),
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


def test_the_wheel_has_every_package_of_the_tree() -> None:
    folders = {path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("glm_model/**/__init__.py")}
    folders |= {path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("app/**/__init__.py")}
    installed_as = {re.sub("^app", "glm_app", folder).replace("/", ".") for folder in folders}
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == {*installed_as, "glm_model.demo_model"}


def test_python_m_glm_model_names_every_program() -> None:
    assert {name for name, _, _ in PROGRAMS} == PROJECT["scripts"].keys()


def test_the_matrix_begins_with_the_oldest_releases_that_are_allowed() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    matrix = re.findall(r"(\w+)-([\d.]+|newest)", re.findall(r"^MATRIX \?= (.*)", makefile, re.MULTILINE)[0])
    tried = {name: [version for each, version in matrix if each == name] for name, _ in matrix}
    assert tried.keys() == {"transformers", "torch"}
    assert "newest" in tried["transformers"]
    for name, versions in tried.items():
        allowed = declared()[name].specifier
        oldest = next(str(bound.version) for bound in allowed if bound.operator == ">=")
        assert versions[0].startswith(oldest)
        assert all(version in allowed for version in versions if version != "newest")


def test_the_workflow_runs_every_release_of_the_matrix() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    (listed,) = re.findall(r"release: \[(.*)\]", workflow)
    assert listed.split(", ") == re.findall(r"^MATRIX \?= (.*)", makefile, re.MULTILINE)[0].split()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: setuptools would put what an earlier tree left in `build` into it."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in PACKED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "tree" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / "tree" / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(folder / "tree")], check=True, timeout=120)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs in an environment with the wheel, which borrows the libraries of this one."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True, timeout=60)
    folder = environment / ("Scripts" if os.name == "nt" else "bin")
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    library = subprocess.run([folder / "python", "-c", ask], check=True, capture_output=True, text=True).stdout.strip()
    (Path(library) / "borrowed.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "python")]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True, timeout=120)
    return folder


def run_away(command: list[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder that is not the checkout; a failed one is an error."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
        timeout=120,
    )  # fmt: skip


def test_the_wheel_holds_all_that_the_packages_hold(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = next(archive.read(name) for name in archive.namelist() if name.endswith("/METADATA"))
    places = {"glm_model": "glm_model", "app": "glm_app", "models/demo": "glm_model/demo_model"}
    expected = {
        f"{place}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, place in places.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == expected
    assert f"Version: {glm_model.__version__}\n".encode() in metadata


def test_the_installed_chat_answers_away_from_the_checkout(programs: Path, tmp_path: Path) -> None:
    done = run_away([programs / "glm-chat", "--message", "你好", "--temperature", "0"], tmp_path)
    assert "你好" in done.stdout
    assert not done.stderr


def test_the_installed_programs_are_there(programs: Path, tmp_path: Path) -> None:
    """Each names a function; those of the front-ends say how they are called here."""
    code = """
        from importlib.metadata import distribution
        from importlib.util import find_spec
        from glm_app.names import PACKAGE, TERMINAL_COMMAND, WEB_COMMAND
        scripts = distribution("glm-home").entry_points
        assert all(callable(script.load()) for script in scripts)
        assert find_spec("app") is None
        print(PACKAGE, TERMINAL_COMMAND, WEB_COMMAND, *sorted(script.name for script in scripts))
    """
    done = run_away([programs / "python", "-c", textwrap.dedent(code)], tmp_path)
    assert done.stdout.split() == ["glm_app", "glm-chat", "glm-web", *sorted(PROJECT["scripts"])]
    assert run_away([programs / "glm-web", "--help"], tmp_path).stdout.startswith("usage: glm-web")


@pytest.mark.parametrize(
    ("program", "advice"), [("web", 'pip install "glm-home[web]"'), ("terminal", 'pip install "glm-home"')]
)
def test_an_installed_program_without_its_libraries_says_how_to_get_them(
    wheel: Path, tmp_path: Path, program: str, advice: str
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    bare = [sys.executable, "-S", "-c", f"from glm_app.programs import {program}; {program}()"]
    done = subprocess.run(bare, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "is not installed" in done.stderr
    assert advice in done.stderr


@pytest.mark.parametrize("file", ["Dockerfile", "compose.gpu.yaml", "README.md", "README_zh.md"])
def test_the_cuda_image_has_the_pinned_torch(file: str) -> None:
    tags = re.findall(
        r"pytorch/pytorch:([\d.]+)-cuda1[23]\.\d-cudnn9-runtime", (ROOT / file).read_text(encoding="utf-8")
    )
    assert set(tags) == {pins("requirements.txt")["torch"]}


def test_the_cuda_image_has_a_setuptools_that_cpm_kernels_can_be_imported_with() -> None:
    ours = pins("requirements-cuda.txt")
    extra = declared("cpm-kernels")
    assert ours.keys() == {"cpm-kernels", "setuptools"}
    assert all(version in extra[name].specifier for name, version in ours.items())


def test_compose_files_name_what_the_dockerfile_has() -> None:
    base, gpu = (
        yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))["services"]["glm"]
        for name in ("compose.yaml", "compose.gpu.yaml")
    )
    recipe = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert base["build"] == gpu["build"]["context"] == "."
    assert set(gpu["build"]["args"]) <= set(re.findall(r"^ARG (\w+)", recipe, re.MULTILINE))
    assert (ROOT / gpu["build"]["args"]["REQUIREMENTS"]).is_file()
    assert base["ports"] == [f"{port}:{port}" for port in re.findall(r"^EXPOSE (\d+)", recipe, re.MULTILINE)]
    assert {mount.removesuffix(":ro").rpartition(":")[2] for mount in base["volumes"]} == {"/cache", "/model"}
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


def test_every_file_that_the_dockerfile_copies_goes_into_the_context() -> None:
    wanted = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    recipe = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = {word for line in re.findall(r"^COPY (.*) \./$", recipe, re.MULTILINE) for word in line.split()}
    assert copied
    assert copied <= wanted
    assert {path.name for path in ROOT.glob("*_demo.py")} <= wanted
    assert all((ROOT / name).exists() for name in wanted)
