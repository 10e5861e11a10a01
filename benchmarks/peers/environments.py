"""The other programs, each installed from the package index into an environment of its own."""

import os
import subprocess
import sys
import venv
from pathlib import Path

# What pip is told, one call after the other. Without their requirements, which the benchmark does not use: fastllm's
# are 3 GB, most of it for GPUs. chatglm.cpp and llama.cpp come as source and are built for this CPU by their own rules.
PACKAGES = {
    "chatglm.cpp": (
        ("setuptools", "wheel"),  # and cmake, make and a C++ compiler in PATH
        ("--no-deps", "--no-build-isolation", "--no-binary=chatglm-cpp", "chatglm-cpp==0.4.2"),
    ),
    "llama.cpp": (("gguf==0.19.0",), ("--no-binary=llama-cpp-python", "llama-cpp-python==0.3.36")),
    "fastllm": (("--no-deps", "ftllm==1.9.0", "numpy", "pillow"),),
}
_SETTINGS = {
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "CMAKE_BUILD_PARALLEL_LEVEL": "2",  # else chatglm.cpp's build starts as many compilers as there are files
    "CMAKE_ARGS": "-DLLAMA_CURL=OFF",  # llama.cpp downloads nothing here
    "CMAKE_POLICY_VERSION_MINIMUM": "3.5",  # else CMake 4 refuses the SentencePiece that chatglm.cpp brings
}


def python_of(program: str, folder: Path) -> str:
    """The interpreter that can import this program; installs it when it is first asked for."""
    if program not in PACKAGES:
        return sys.executable
    environment = folder / program
    python = environment / "bin" / "python"
    if not (environment / "complete").exists():
        print(f"installing {program} into {environment}", file=sys.stderr)
        venv.create(environment, with_pip=True, clear=True)
        for packages in PACKAGES[program]:
            command = [str(python), "-m", "pip", "install", "-q", *packages]
            subprocess.run(command, check=True, env={**os.environ, **_SETTINGS})
        (environment / "complete").touch()
    return str(python)
