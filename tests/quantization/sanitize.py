"""Run the native kernel under AddressSanitizer and UndefinedBehaviorSanitizer: ``make test-sanitize``.

    python -m tests.quantization.sanitize            # all of it
    python -m tests.quantization.sanitize -k rows    # arguments go to pytest

Needs GCC with libasan.

First the C++ program ``check_matmul.cpp`` for every instruction set of this CPU, and the threads' ``check_threads.cpp``
under ThreadSanitizer. Then the tests that call the kernel from Python, for the best instruction set: AddressSanitizer
must be there before everything else in a process, so Python is started again with libasan preloaded. What is found is
printed, and ends the program with another exit status than 0.
"""

import ctypes
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from glm_model.kernels import build, native
from tests.quantization.test_kernels_native import run_check, run_thread_check

SANITIZERS = (
    "-O1",
    "-g1",
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
)
TESTS = ("test_kernels_native.py", "test_native_decoder.py", "test_native_rows.py", "test_trial.py")
APART = ("test_memory_is_respected", "test_threads_work_together", "test_neon_in_an_emulator")  # programs of their own
PRELOADED = "GLM_SANITIZERS_PRELOADED"


def main() -> int:
    """Return the exit status."""
    if PRELOADED in os.environ:
        return check_from_python(sys.argv[1:])
    preloaded = runtime_libraries()
    with tempfile.TemporaryDirectory() as folder:
        for instructions in build.instruction_sets():
            options = [*SANITIZERS, *build.INSTRUCTION_SETS[instructions][1]]
            print(run_check(build.find_compiler(), options, [], Path(folder) / "check"), end="", flush=True)
        run_thread_check(Path(folder) / "threads")
        environment = {
            **os.environ,
            PRELOADED: "yes",
            "LD_PRELOAD": " ".join(preloaded),
            "ASAN_OPTIONS": "detect_leaks=0",  # Python's own would be found
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "XDG_CACHE_HOME": folder,
            "GLM_KERNEL": "native",
            "GLM_INSTRUCTIONS": os.environ.get("GLM_INSTRUCTIONS", build.instruction_sets()[0]),
        }
        command = [sys.executable, "-m", "tests.quantization.sanitize", *sys.argv[1:]]
        return subprocess.run(command, env=environment).returncode


def runtime_libraries() -> list[str]:
    """Return what has to be preloaded: libasan, and libstdc++, whose exceptions it looks at."""
    found = []
    for name in ("libasan.so", "libstdc++.so"):
        command = [*build.find_compiler(), f"-print-file-name={name}"]
        path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        if not Path(path).is_absolute():
            sys.exit(f"{command[0]} has no {name}: install GCC with its sanitizers, or name it with CXX=g++")
        found.append(path)
    return found


def check_from_python(arguments: list[str]) -> int:
    """Run the tests in this process, with a library that is made with the sanitizers."""
    # LD_PRELOAD stays: the compiler does not need it, but the process in which a new library is tried does.
    build._OPTIONS = (*build._OPTIONS, *SANITIZERS)  # type: ignore[assignment]
    ctypes.CDLL(str(native.found().path)).__asan_init  # noqa: B018  (there is none in another library)
    files = [str(Path(__file__).with_name(name)) for name in TESTS]
    apart = [f"--deselect=tests/quantization/test_kernels_native.py::{name}" for name in APART]
    return pytest.main(["-q", "-n0", "--capture=sys", *apart, *arguments, *files])


if __name__ == "__main__":
    sys.exit(main())
