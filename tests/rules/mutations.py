"""Break one rule at a time, and see that the tests of that rule say so, and no others.

    python -m tests.rules.mutations            all of them
    python -m tests.rules.mutations rotary 4-9 those whose rule or file holds one of the words, or by their numbers
    python -m tests.rules.mutations --quick    each with the test files alone that are named with it

Each mutation of ``mutation_table.py`` replaces a piece of text in a copy of the package and runs ``tests/rules`` there.
It is caught if a test whose name holds the rule's words fails, and all tests that fail are of the files named with it.
The exit code is 1 if one is not.
"""

import contextlib
import io
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.rules.mutation_table import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]
# What a copy holds besides the package.
NEEDED = ["tests/rules", "tests/data/golden/tokenizer/v1.0", "tests/data/golden/tokenizer/v1.1"]
# Imported once for all processes, which takes most of a run's time; they import nothing of ours.
LIBRARIES = ["pytest", "torch", "sentencepiece", "transformers.modeling_utils", "transformers.generation"]
SECONDS = 300


def mutated(mutation: Mutation, root: Path) -> str:
    """Return the whole text of the mutation's file with the fault in it.

    Raises:
        ValueError: the file is not there, or the text to replace does not occur in it exactly once.
    """
    path = root / "glm_model" / mutation.file
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if (count := text.count(mutation.old)) != 1:
        raise ValueError(
            f"{mutation.file} holds {mutation.old!r} {count} times: give its new place or text in mutation_table.py"
        )
    return text.replace(mutation.old, mutation.new)


def copy_package(folder: Path) -> None:
    """Write what the tests need into an empty folder."""
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ["glm_model", *NEEDED]:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=ignore)
        else:
            shutil.copy(source, target)
    (folder / "pyproject.toml").write_text('[tool.pytest.ini_options]\npythonpath = ["."]\n', encoding="utf-8")


def write(path: Path, text: str, second: int) -> None:
    """Write a source with a time of its own: Python knows compiled ones by second and size, and both may be alike."""
    path.write_text(text, encoding="utf-8")
    os.utime(path, (second, second))


class Failures:
    """A plugin of pytest that collects the names of failed tests, ``file::function``, and of files that break."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.names.add(report.nodeid.rpartition("/")[2].partition("[")[0])

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.names.add(f"{report.nodeid.rpartition('/')[2]} cannot be imported")


def run_tests(folder: Path, tests: list[str], answer: Connection) -> None:
    """Run test files of a copy in this process and send the names of the tests that fail."""
    import pytest

    os.chdir(folder)
    sys.path[:] = [path for path in sys.path if path and Path(path).resolve() != ROOT]
    failures = Failures()
    arguments = ["--ignore=tests/rules/test_mutations.py", "--import-mode=importlib", "-p", "no:cacheprovider"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        pytest.main([*tests, *arguments], plugins=[failures])
    package = Path(sys.modules["glm_model"].__file__ or "").resolve()
    assert package.is_relative_to(folder.resolve()), f"{package} was tested instead of the copy"
    answer.send(sorted(failures.names))


def failing_tests(folder: Path, tests: list[str]) -> list[str]:
    """Return the names of the tests that fail in a copy; each run has a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=run_tests, args=(folder, tests, sender))
    process.start()
    sender.close()
    try:
        names: list[str] = receiver.recv() if receiver.poll(SECONDS) else [f"no answer within {SECONDS} s"]
    except EOFError:
        names = ["the process ended without an answer"]
    process.join(timeout=SECONDS / 10)
    process.kill()
    return names


def complaint(mutation: Mutation, failing: list[str]) -> str | None:
    """Return what is wrong with how a mutation was caught; None if nothing is."""
    if not failing:
        return "NOT CAUGHT"
    if not any(mutation.rule in name.partition("::")[2] for name in failing):
        return f"no failing test bears the name {mutation.rule!r}"
    if strangers := [name for name in failing if name.partition(".py")[0] not in mutation.test_files]:
        return f"other tests fail too: {', '.join(strangers)}"
    return None


def is_chosen(number: int, mutation: Mutation, words: list[str]) -> bool:
    """Return whether one of the words names a mutation: a piece of its rule or file, a number, or `first-last`."""
    for word in words:
        first, _, last = word.partition("-")
        if first.isdecimal() and int(first) <= number <= int(last or first):
            return True
        if word in mutation.rule or word in mutation.file:
            return True
    return not words


def main() -> int:
    os.environ["HF_HUB_OFFLINE"] = "1"
    # As in tests/conftest.py: half precision rounds otherwise with newer instructions.
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
    words = [word for word in sys.argv[1:] if word != "--quick"]
    is_quick = "--quick" in sys.argv[1:]
    chosen = [(number, one) for number, one in enumerate(MUTATIONS, start=1) if is_chosen(number, one, words)]
    missed, start = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_package(folder)
        if broken := failing_tests(folder, ["tests/rules"]):
            print(f"without any mutation these fail: {', '.join(broken)}")
            return 1
        for number, mutation in chosen:
            tests = [f"tests/rules/{file}.py" for file in mutation.test_files] if is_quick else ["tests/rules"]
            path = folder / "glm_model" / mutation.file
            whole = path.read_text(encoding="utf-8")
            write(path, mutated(mutation, folder), 2 * number)
            failing = failing_tests(folder, tests)
            write(path, whole, 2 * number + 1)
            problem = complaint(mutation, failing)
            missed += problem is not None
            print(f"{number:3} {mutation.rule}: {problem or f'caught by {len(failing)}'}", flush=True)
            if problem:
                print(f"      {mutation.file}: {mutation.old!r} -> {mutation.new!r}\n      {failing}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} caught, in {time.monotonic() - start:.0f} s")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
