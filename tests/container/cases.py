"""The image, built and run for real: `make test-container`. Not part of the suite: it takes minutes and needs root."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.browser.conftest import Visitor, chromium, visit  # noqa: F401 - fixtures
from tests.container.engine import ROOT, Container, Engine, UnavailableError, why_not

if reason := why_not():
    pytest.skip(f"no image can be built here: {reason}", allow_module_level=True)

IMAGE, CUDA_LIKE = "glm:test", "glm:test-cuda"
QUIET = ("--network", "none")
CHINESE = re.compile("[\u4e00-\u9fff]{2}")
Visit = Callable[..., Visitor]
INT4 = ("cli_demo.py", "--message", "你好", "--quantize", "int4")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    kept = os.environ.get("CONTAINERS")
    folder = Path(kept).resolve() if kept else tmp_path_factory.mktemp("engine")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        engine = Engine(folder)
    except UnavailableError as reason:
        pytest.skip(f"no image can be built here: {reason}")
    yield engine
    engine.clean(keep_images=kept is not None)


@pytest.fixture(scope="module")
def image(engine: Engine) -> str:
    """The image for CPUs."""
    engine.build(IMAGE, "--build-arg", f"BASE={engine.base}")
    return IMAGE


@pytest.fixture(scope="module")
def cuda_like(engine: Engine, image: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image on a base like PyTorch's: with the pinned torch, and a torchvision that was made for another one."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(
        'raise RuntimeError("operator torchvision::nms does not exist")\n', encoding="utf-8"
    )
    (folder / "setup.py").write_text(
        'from setuptools import setup\nsetup(name="torchvision", version="0.1", packages=["torchvision"])\n',
        encoding="utf-8",
    )
    (folder / "Dockerfile").write_text(
        f"FROM {image}\nUSER root\nCOPY . /torchvision\nRUN cd /torchvision && "
        "PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --no-build-isolation . && "
        "! python3 -c 'import torchvision' && rm -r /app/* /torchvision\n",
        encoding="utf-8",
    )
    engine.build("glm:test-base", context=folder)
    engine.build(CUDA_LIKE, "--build-arg", "BASE=glm:test-base", "--build-arg", "REQUIREMENTS=requirements-cuda.txt")
    return CUDA_LIKE


def served(engine: Engine, image: str, *arguments: str, flags: tuple[str, ...] = ()) -> Container:
    """A web chat whose port is open on this machine, without an init."""
    return engine.start(image, *arguments, flags=("--publish", "127.0.0.1::7860", *flags))


def stops_in_time(container: Container) -> None:
    """Stop it: by itself, within five seconds, with status 0 and no traceback."""
    status, seconds = container.stop()
    assert status == 0, container.log()
    assert seconds < 5
    assert "Traceback" not in container.log()


def test_the_sizes_are_told(engine: Engine, image: str, capsys: pytest.CaptureFixture[str]) -> None:
    size = int(engine("image", "inspect", "--format", "{{.Size}}", image).output)
    with capsys.disabled():
        print(f"\n{image} on {engine.base}: {size / 1e9:.2f} GB")
    assert size < 3e9


@pytest.mark.parametrize("locale", ["zh-CN", "en-US"])
def test_the_page_answers_in_chinese(engine: Engine, image: str, visit: Visit, locale: str) -> None:  # noqa: F811
    container = served(engine, image)
    visitor = visit(container.wait_until_it_serves(), locale=locale)
    assert CHINESE.search(visitor.ask("你好"))
    stops_in_time(container)


def test_the_terminal_answers_in_chinese(engine: Engine, image: str) -> None:
    assert CHINESE.search(engine.run(image, "cli_demo.py", "--message", "你好", flags=QUIET).output)


def test_the_other_programs(engine: Engine, image: str) -> None:
    assert engine.run(image, "python", "-m", "glm_model.fill", "床前明月[MASK]。", flags=QUIET).output.strip()
    assert "GB" in engine.run(image, "python", "-m", "glm_model.plan", "--model=glm-130b", "--gpus=8x40GB").output
    assert "usage" in engine.run(image, "torchrun", "--help").output
    assert "usage" in engine.run(image, "--help").output


@pytest.mark.parametrize("flags", [(), ("--port", "7999"), ("--host", "127.0.0.1")], ids=str)
def test_the_health_check_asks_the_port_that_is_served(engine: Engine, image: str, flags: tuple[str, ...]) -> None:
    container = engine.start(image, *flags)
    assert engine("exec", container.name, "python3", "/app/container/health.py", status=None).status == 1
    for _ in range(60):
        if engine("exec", container.name, "python3", "/app/container/health.py", status=None).status == 0:
            break
        time.sleep(1)
    if engine.is_podman:  # whose timer needs systemd
        engine("healthcheck", "run", container.name)
    assert container.stop()[0] == 0


def test_it_is_not_root(engine: Engine, image: str) -> None:
    assert engine.run(image, "id", "-u").output.strip() == "10001"
    assert engine.run(image, "sh", "-c", "touch /app/x", status=None).status != 0


def test_any_user_with_a_root_that_is_read_only(engine: Engine, image: str) -> None:
    no_tmpfs = ("--read-only-tmpfs=false",) if engine.is_podman else ()
    hardened = ("--read-only", *no_tmpfs, "--tmpfs", "/tmp", "--cap-drop", "all", "--security-opt", "no-new-privileges")
    result = engine.run(image, *INT4, flags=("--user", "12345:23456", *hardened, *QUIET))
    assert CHINESE.search(result.output)
    assert "without the native kernel" not in result.errors


def test_a_gigabyte_is_enough_for_int4(engine: Engine, image: str) -> None:
    result = engine.run(image, *INT4, flags=("--memory", "1g", *QUIET))
    assert CHINESE.search(result.output)
    assert "memory" not in result.errors


def test_too_little_memory_is_told(engine: Engine, image: str) -> None:
    result = engine.run(image, *INT4, flags=("--memory", "300m", "--memory-swap", "300m", *QUIET), status=None)
    assert result.status != 0
    assert "may use 300 MB of memory" in result.errors
    assert "--memory" in result.errors


def test_a_model_in_a_volume(engine: Engine, image: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "models" / "demo", tmp_path / "model")
    flags = ("--volume", f"{tmp_path}/model:/model:ro", *QUIET)
    result = engine.run(image, "cli_demo.py", "--model", "/model", "--message", "你好", flags=flags)
    assert CHINESE.search(result.output)
    missing = engine.run(image, "--model", "/model", flags=QUIET, status=1)
    assert "/model" in missing.errors
    assert "Traceback" not in missing.errors


def test_the_kernel_stays_in_the_cache(engine: Engine, image: str) -> None:
    engine("volume", "rm", "--force", "kept", status=None)
    engine("volume", "create", "kept")
    flags = ("--volume", "kept:/cache", *QUIET)
    listing = ("sh", "-c", "find /cache -name '*.so' -printf '%p %T@\\n'")
    assert engine.run(image, *listing, flags=flags).output == ""
    engine.run(image, *INT4, flags=flags)
    first = engine.run(image, *listing, flags=flags).output
    assert first.count("\n") == 1
    engine.run(image, *INT4, flags=flags)
    assert engine.run(image, *listing, flags=flags).output == first
    # Another user of the same volume gets a kernel too.
    result = engine.run(image, *INT4, flags=(*flags, "--user", "4321"))
    assert "without the native kernel" not in result.errors


@pytest.mark.parametrize("after", [0.0, 0.3, 1.0, 2.0, 3.0, 4.0])
def test_it_stops_while_it_starts(engine: Engine, image: str, after: float) -> None:
    container = served(engine, image)
    time.sleep(after)
    stops_in_time(container)


def test_it_stops_while_it_compiles_the_kernel(engine: Engine, image: str) -> None:
    container = served(engine, image, "--quantize", "int4")
    while not engine("exec", container.name, "sh", "-c", "cat /proc/*/comm", status=None).output.count("cc1plus"):
        time.sleep(0.2)
    stops_in_time(container)


def test_it_stops_while_it_streams(engine: Engine, image: str, visit: Visit) -> None:  # noqa: F811
    container = served(engine, image, flags=("--cpus", "0.5"))
    visitor = visit(container.wait_until_it_serves())
    visitor.type_and_send("从前有一座山，请讲一个很长的故事")
    time.sleep(0.5)
    stops_in_time(container)


def test_the_base_is_marked_as_managed(engine: Engine, image: str) -> None:
    """As today's CUDA images are (PEP 668): the build does not stumble over it."""
    if engine.base.startswith("docker.io"):
        pytest.skip("this base has no marker")
    code = "import pathlib, sysconfig; print(pathlib.Path(sysconfig.get_path('stdlib'), 'EXTERNALLY-MANAGED').exists())"
    assert engine.run(image, "python", "-c", code).output.strip() == "True"


def test_a_torch_that_is_there_is_kept_and_what_does_not_fit_it_is_removed(engine: Engine, cuda_like: str) -> None:
    code = "import importlib.util; print(importlib.util.find_spec('torchvision'))"
    layer = engine.run(IMAGE, "sh", "-c", "stat -c %Y $(python -c 'import torch; print(torch.__file__)')").output
    assert engine.run(cuda_like, "python", "-c", code).output.strip().endswith("None")
    assert (
        engine.run(cuda_like, "sh", "-c", "stat -c %Y $(python -c 'import torch; print(torch.__file__)')").output
        == layer
    )
    assert CHINESE.search(engine.run(cuda_like, "cli_demo.py", "--message", "你好", flags=QUIET).output)


def test_cpm_kernels_is_found_and_never_needed(engine: Engine, image: str, cuda_like: str) -> None:
    code = (
        "import importlib.util as u; from glm_model.kernels import cpm; import cpm_kernels.library, pkg_resources;"
        "print(u.find_spec('cpm_kernels') is not None)"
    )
    assert engine.run(cuda_like, "python", "-W", "ignore", "-c", code).output.strip() == "True"
    assert engine.run(image, "python", "-c", code, status=None).status != 0
    assert CHINESE.search(engine.run(image, *INT4, flags=QUIET).output)


def test_the_context_holds_nothing_else(engine: Engine, image: str, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".venv*", ".git", ".*_cache"), symlinks=True)
    for path in ("models/chatglm-6b/model.safetensors", "chatglm-6b/x.bin", ".env", "app/.secret", "glm_model/x/y.bin"):
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        (checkout / path).write_text("x", encoding="utf-8")
    recipe = tmp_path / "Dockerfile"
    recipe.write_text(f"FROM {image}\nCOPY . /context\n", encoding="utf-8")
    engine.build("glm:test-context", "--file", str(recipe), context=checkout)
    found = engine.run("glm:test-context", "find", "/context", "-type", "f", "-printf", "%P\\n").output.splitlines()
    top = {path.split("/")[0] for path in found}
    assert top == {
        *("app", "container", "glm_model", "models", "web_demo.py", "cli_demo.py", "requirements.txt"),
        *("requirements-cuda.txt", "constraints.txt", "LICENSE", "NOTICE"),
    }
    assert {path.split("/")[1] for path in found if path.startswith("models/")} == {"demo"}
    assert not [path for path in found if "/." in path or "__pycache__" in path or path.endswith(".bin")]


@pytest.mark.parametrize("locale", ["zh_CN.UTF-8", "de_DE.UTF-8"])
def test_locales_that_are_generated_and_not(engine: Engine, image: str, locale: str) -> None:
    result = engine.run(image, "cli_demo.py", "--message", "你好", flags=("--env", f"LC_ALL={locale}", *QUIET))
    assert CHINESE.search(result.output)
    assert "Traceback" not in result.errors
    warned = "cannot change locale" in engine.run(image, "bash", "-c", ":", flags=("--env", f"LC_ALL={locale}")).errors
    assert warned == (locale != "zh_CN.UTF-8")
