"""Imports go one way, scripts -> app -> glm_model -> transformers, and importing does nothing else."""

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {"glm_model", "app"}
# Beside the program: made with it, never part of it.
WORKSHOPS = {"demo_recipe", "benchmarks", "tests"}
# Third-party modules that belong to one room, and the folder of that room.
ROOMS = {
    "gradio": "app/web",
    "fastapi": "app/api",
    "rich": "app/terminal",
    "prompt_toolkit": "app/terminal",
    "markdown_it": "app/terminal",
}
# Pure functions that import nothing of ours, so that they can be read and tested alone.
LEAVES = [
    "glm_model/errors.py",
    "glm_model/model/masking.py",
    "glm_model/kernels/packing.py",
    "glm_model/quantization/rules.py",
    "glm_model/checkpoint/keys.py",
]
# The floors of the house, from the ground up: a file may import from its own room and from lower floors.
FLOORS: list[list[str]] = [
    ["errors", "options", "optional_parts", "process"],
    ["kernels"],
    ["quantization", "text"],
    ["model", "command_line"],
    ["parallel"],
    ["checkpoint", "generation"],
    ["modeling_glm", "configuration_glm", "tokenization_glm"],
    ["training", "conversion", "blank_filling", "loading"],
    ["plan", "evaluation", "fill"],
    ["__main__"],
]
# What Python itself puts into a package, and what stands on every floor because it is the package.
NO_ROOMS = {"__init__", "__pycache__"}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def scripts() -> list[Path]:
    return sorted(ROOT.glob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Full dotted names of all that a file imports, inside functions too; relative names made absolute."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            stem = ".".join(part for part in (base, node.module) if part)
            yield from (f"{stem}.{alias.name}" for alias in node.names)


def module_of(path: Path) -> str:
    """The dotted name of a file's module; of a package for its ``__init__``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def arrows(package: str) -> dict[str, set[str]]:
    """Of every module of a package, the modules of it that it imports, inside functions and for types too."""
    modules = {module_of(path): path for path in sources(package)}
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        known = {name if name in modules else name.rpartition(".")[0] for name in imports(path)}
        found[module] = known & modules.keys() - {module, package}
    return found


def top(name: str) -> str:
    return name.partition(".")[0]


def offenders(paths: list[Path], forbidden: set[str]) -> list[str]:
    """`file: import` for every import of a forbidden top-level module."""
    found = [(path, name) for path in paths for name in imports(path) if top(name) in forbidden]
    return [f"{path.relative_to(ROOT)}: {name}" for path, name in found]


def test_the_model_package_knows_nothing_of_the_front_ends() -> None:
    assert sources("glm_model")
    assert not offenders(sources("glm_model"), {"app", *WORKSHOPS, *ROOMS})


def test_the_front_ends_know_no_script_and_no_test() -> None:
    assert sources("app")
    assert not offenders(sources("app"), {*WORKSHOPS, *(path.stem for path in scripts())})


def test_the_recipe_of_the_demo_model_knows_no_front_end() -> None:
    assert not offenders(sources("demo_recipe"), {"app", "tests", "benchmarks"})


def test_the_front_ends_know_the_model_only_through_its_public_names() -> None:
    """Loading, streams, blank filling, errors: the front-ends must not reach into layers, masks or key maps."""
    doors = {"loading", "options", "generation", "blank_filling", "process", "text", "errors"}
    inner = {path.stem for path in (ROOT / "glm_model").iterdir() if not path.name.startswith("_")} - doors
    reached = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources("app")
        for name in imports(path)
        if top(name) == "glm_model" and name.split(".")[1:2] and name.split(".")[1] in inner
    ]
    assert not reached


def test_no_room_imports_from_a_higher_floor() -> None:
    floors = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    rooms = [path for path in (ROOT / "glm_model").iterdir() if path.suffix in ("", ".py")]
    assert floors.keys() == {path.stem for path in rooms} - NO_ROOMS
    up = []
    for module, targets in arrows("glm_model").items():
        room = module.split(".")[1:2]
        for target in targets if room else []:
            if (other := target.split(".")[1]) != room[0] and floors[other] >= floors[room[0]]:
                up.append(f"{module} -> {target}")
    assert not up


@pytest.mark.parametrize("package", ["glm_model", "app", "demo_recipe", "benchmarks"])
def test_no_file_imports_itself_through_others(package: str) -> None:
    left = arrows(package)
    while free := [module for module, targets in left.items() if not targets & left.keys()]:
        for module in free:
            del left[module]
    assert not left


def test_scripts_only_start_a_front_end() -> None:
    others = {top(name) for path in scripts() for name in imports(path)} - {"app", *sys.stdlib_module_names}
    assert not others


@pytest.mark.parametrize(("library", "room"), ROOMS.items())
def test_a_library_stays_in_its_room(library: str, room: str) -> None:
    outside = [path for path in sources("app") if not path.is_relative_to(ROOT / room)]
    assert not offenders(outside, {library})


@pytest.mark.parametrize("pattern", LEAVES)
def test_leaves_import_nothing_of_ours(pattern: str) -> None:
    assert not offenders(sorted(ROOT.glob(pattern)), OURS)


def test_what_comes_before_the_slow_imports_needs_the_standard_library_alone() -> None:
    """The front-ends run these files without importing the package: app/package_settings.py, app/package_process.py."""
    names = {name for room in ("options", "process") for path in sources(f"glm_model/{room}") for name in imports(path)}
    others = {name for name in names if not name.startswith(("glm_model.options.", "glm_model.process."))}
    assert {top(name) for name in others} <= sys.stdlib_module_names


def test_conversations_need_no_torch() -> None:
    assert not offenders([ROOT / "app/serving/conversation.py"], {"torch", "transformers", "glm_model"})


# Run in a fresh interpreter. The watch begins after torch and transformers, whose own habits are not ours to test.
WATCHED_IMPORT = """
    import sys
    sys.modules.update(dict.fromkeys({blocked!r}))  # as good as not installed
    import torch, transformers

    def watch(event, args):
        if event.startswith("socket.") or event in ("subprocess.Popen", "os.system", "os.posix_spawn"):
            raise RuntimeError(f"{{event}} at import")
        if event == "open" and str(args[0]).endswith((".safetensors", ".bin", ".pt", ".model")):
            raise RuntimeError(f"{{args[0]}} opened at import")

    sys.addaudithook(watch)
    import {modules}
    assert not torch.cuda.is_initialized(), "a GPU was touched at import"
"""


def errors_of_import(modules: str, blocked: set[str]) -> str:
    """What a fresh interpreter complains of when it imports `modules` (comma separated) under watch."""
    code = textwrap.dedent(WATCHED_IMPORT).format(modules=modules, blocked=blocked)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    return done.stderr if done.returncode else ""


def modules_of(room: str | None) -> str:
    """The modules of app/ in one room (a folder), or, for None, those in no room at all."""

    def belongs(path: Path) -> bool:
        rooms = {folder for folder in ROOMS.values() if path.is_relative_to(ROOT / folder)}
        return room in rooms if room else not rooms

    paths = [path for path in sources("app") if belongs(path) and path.stem != "__init__"]
    return ", ".join(module_of(path) for path in paths)


def test_the_model_package_alone_imports_without_side_effects() -> None:
    assert not errors_of_import("glm_model", blocked={"app", *ROOMS})


def test_the_engine_room_imports_without_side_effects() -> None:
    assert not errors_of_import(modules_of(None), blocked=set(ROOMS))


@pytest.mark.parametrize(
    ("room", "blocked"),
    [
        ("app/web", {"prompt_toolkit"}),
        ("app/terminal", {"gradio", "fastapi"}),
    ],
)
def test_a_front_end_imports_without_side_effects(room: str, blocked: set[str]) -> None:
    assert modules_of(room), f"no module matches {room}"
    assert not errors_of_import(modules_of(room), blocked)


def test_the_watch_sees_what_it_must() -> None:
    assert "socket.__new__ at import" in errors_of_import("socket; socket.socket()", blocked=set())
    assert "import of rich halted" in errors_of_import("rich", blocked={"rich"})
