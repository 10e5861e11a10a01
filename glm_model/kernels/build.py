"""Build the native kernel: C++ source in this package, compiled on first use into the user's cache.

A wheel for every CPU and every system is more than this project can make and test, and a package build that needs a
compiler breaks installs. So the source travels, and whoever has a compiler has the kernel three seconds after the
first product; whoever has none is told so and has the other kernels, or installs ``ziglang``, a compiler in a wheel.
Nothing is ever written into the package.

The cache itself is in ``library_cache``: what it returns is whole, and this user's own.
"""

import errno
import hashlib
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import torch

from ..process.leftovers import run_alone
from . import library_cache

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).parent / "csrc"
COMPILERS = ("g++", "clang++", "c++")
_ZIG = "ziglang"  # a module whose c++ is clang++ in all but the names of CPUs
_ZIG_SPELLING = {"-march=armv8.2-a+dotprod": "-mcpu=generic+dotprod"}
# The two on mathematics: nobody asks for errno or floating-point exceptions, and loops that keep them are no vectors.
_OPTIONS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
_TIMEOUT = 300  # seconds; it takes ten, and with ziglang, which makes itself a C++ library first, sixty
_VERSION_TIMEOUT = 20
_LINE = 300  # characters of a compiler's message that are passed on

_AVX2 = ("avx2", "fma3", "f16c")
_AVX512 = ("avx512_f", "avx512_bw", "avx512_vl", "avx512_dq", "avx512_vnni")
_AVX2_OPTIONS = ("-mavx2", "-mfma", "-mf16c")
_AVX512_OPTIONS = (*_AVX2_OPTIONS, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni")

# Best first: name, what the CPU must have (names of torch.cpu.get_capabilities), what the compiler is told.
INSTRUCTION_SETS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "avx512": ((*_AVX2, *_AVX512), _AVX512_OPTIONS),
    "avxvnni": ((*_AVX2, "avx_vnni"), (*_AVX2_OPTIONS, "-mavxvnni")),
    # The same code with AVX-512's form of the same instruction: how it is tested on CPUs that lack the other form.
    "avx512-256bit": ((*_AVX2, *_AVX512), (*_AVX512_OPTIONS, "-DGLM_256_BIT")),
    "avx2": (_AVX2, _AVX2_OPTIONS),
    "neon": (("neon", "dot"), ("-march=armv8.2-a+dotprod",)),
}


class BuildError(Exception):
    """The native kernel cannot be built or used; the message says why and what would help."""


def instruction_sets() -> list[str]:
    """Return the names in :data:`INSTRUCTION_SETS` that this CPU has, best first."""
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return [name for name, (needed, _) in INSTRUCTION_SETS.items() if all(capabilities.get(flag) for flag in needed)]


def find_compiler() -> list[str]:
    """Return the C++ compiler's command: $CXX with its arguments, the first of the usual names in PATH, or ziglang.

    Raises:
        BuildError: there is none.
    """
    try:
        named = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise BuildError(
            f"CXX={os.environ['CXX']} is no command: {error}; set it to a C++ compiler, or unset it"
        ) from None
    for name in named[:1] or COMPILERS:
        if path := shutil.which(name):
            return [path, *named[1:]]
    if named:
        raise BuildError(f"CXX={named[0]} was not found; set it to a C++ compiler, or unset it")
    if find_spec(_ZIG):
        return [sys.executable, "-m", _ZIG, "c++"]
    raise BuildError(f"no C++ compiler ({', '.join(COMPILERS)}) in PATH; pip install {_ZIG} brings one")


def build(
    instructions: str, source: Path = SOURCE / "kernels.cpp", try_out: Callable[[Path], None] = lambda library: None
) -> Path:
    """Return the path of the compiled library; compile it if it is not in the cache, or not whole.

    Args:
        instructions: a name of :data:`INSTRUCTION_SETS`.
        source: a C++ file; all of ``csrc`` decides with it whether a cached library is up to date.
        try_out: is called with a library that was just compiled, before it comes into the cache; raises
            :class:`BuildError` if it is none.

    Raises:
        BuildError: no compiler, one that fails, or a cache that cannot be written.
    """
    if sys.platform == "win32":
        raise BuildError("not built on Windows")
    compiler = find_compiler()
    options = [*_OPTIONS, *INSTRUCTION_SETS[instructions][1]]
    if _ZIG in compiler:
        options = [_ZIG_SPELLING.get(option, option) for option in options]
    command = [*compiler, *options, str(source), *_libraries(compiler)]
    version = _run([*compiler, "--version"], _VERSION_TIMEOUT)
    name = f"{source.stem}-{instructions}-{_fingerprint(command, source, version)}"

    def make(library: Path) -> None:
        _compile(command, library)
        try_out(library)

    problems = []
    for cache in library_cache.folders():
        try:
            return library_cache.get(cache, name, make)
        except OSError as error:
            problems.append(f"the cache {cache} cannot be used: {error}")
    raise BuildError("; ".join(problems))


def named_compiler() -> str:
    """Return the compiler's command for people, with CXX if that names it."""
    return f"CXX={os.environ['CXX']}" if os.environ.get("CXX") else find_compiler()[0]


def _libraries(compiler: list[str]) -> list[str]:
    """Return what a C compiler has to be told to link C++ with."""
    return ["-lstdc++"] if re.fullmatch(r"(.*-)?(gcc|clang|cc)(-[\d.]+)?", Path(compiler[0]).name) else []


def _fingerprint(command: list[str], source: Path, version: str) -> str:
    """Return what decides the content of a library, and on which systems it can be loaded, as 16 characters."""
    digest = hashlib.sha256()
    for path in sorted({*SOURCE.iterdir(), source}):
        digest.update(path.read_bytes())
    libc = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else sys.platform
    words = [word for word in command if word != str(source)]
    digest.update("\0".join([*words, version, str(libc)]).encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _compile(command: list[str], library: Path) -> None:
    if _ZIG in command:
        logger.warning("compiling the kernel for INT4 and INT8 with %s: a minute or two, this once", _ZIG)
    # Its own temporary files lie beside the library: TMPDIR may be missing or full.
    _run([*command, "-o", str(library)], _TIMEOUT, {"TMPDIR": str(library.parent)})
    if not library.is_file() or library.stat().st_size == 0:
        raise BuildError(f"{named_compiler()} has written nothing; set CXX to a C++ compiler, or unset it")


def _run(command: list[str], timeout: float, environment: Mapping[str, str] | None = None) -> str:
    try:
        done = run_alone(command, timeout, {**os.environ, **(environment or {})})
    except subprocess.TimeoutExpired as error:
        raise BuildError(
            f"{named_compiler()} has not ended after {timeout} seconds; set CXX to another C++ compiler"
        ) from error
    except (OSError, ValueError) as error:
        raise BuildError(f"{named_compiler()} did not run: {error}; set CXX to a C++ compiler, or unset it") from error
    if done.returncode:
        if os.strerror(errno.ENOSPC) in done.stdout:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        errors = [line for line in done.stdout.splitlines() if "error" in line]
        said = "".join(errors[:1] or done.stdout.splitlines()[:1]).strip()[:_LINE]
        why = said if errors else f"exit status {done.returncode}{said and f' ({said})'}"
        raise BuildError(f"{named_compiler()} failed: {why}")
    return done.stdout
