"""The other programs, each installed from the package index into an environment of its own."""

import os
import subprocess
import sys
import venv
from pathlib import Path

# What pip is told. chatglm.cpp comes as source and is built by its own rules.
PACKAGES = {
    "chatglm.cpp": ("--no-build-isolation", "--no-deps", "--no-binary=chatglm-cpp", "chatglm-cpp"),
    "fastllm": ("ftllm",),
}
_BUILD_TOOLS = ("setuptools", "wheel")  # and cmake and a C++ compiler in PATH


def python_of(program: str, folder: Path) -> str:
    """The interpreter that can import this program; installs it when it is first asked for."""
    if program not in PACKAGES:
        return sys.executable
    environment = folder / program
    python = environment / "bin" / "python"
    if not (environment / "complete").exists():
        venv.create(environment, with_pip=True, clear=True)
        # Unless told otherwise, chatglm.cpp's build starts as many compilers as there are files.
        for packages in (_BUILD_TOOLS, PACKAGES[program]):
            command = [str(python), "-m", "pip", "install", "-q", *packages]
            subprocess.run(command, check=True, env={**os.environ, "CMAKE_BUILD_PARALLEL_LEVEL": "2"})
        (environment / "complete").touch()
    return str(python)
