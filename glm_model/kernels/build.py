"""Build the native kernel: C++ source in this package, compiled on first use into the user's cache.

A wheel for every CPU and every system is more than this project can make and test, and a package build that needs a
compiler breaks installs. So the source travels, and whoever has a compiler has the kernel three seconds after the
first product; whoever has none is told so and has the other kernels, or installs ``ziglang``, a compiler in a wheel.
Nothing is ever written into the package.

The file in the cache is named by what decides its content: source, instruction set, flags and compiler. It is made
under another name and renamed, so whoever finds it finds it whole; a lock keeps two processes from both making it.
"""

import contextlib
import errno
import hashlib
import logging
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import torch

from ..process.leftovers import run_alone, temporary_folder

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).parent / "csrc"
COMPILERS = ("g++", "clang++", "c++")
_ZIG = "ziglang"  # a module whose c++ is clang++ in all but the names of CPUs
_ZIG_SPELLING = {"-march=armv8.2-a+dotprod": "-mcpu=generic+dotprod"}
# The two on mathematics: nobody asks for errno or floating-point exceptions, and loops that keep them are no vectors.
_OPTIONS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
_TIMEOUT = 600  # seconds; it takes three, and with ziglang, which makes itself a C++ library first, sixty

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


def cache_folders() -> list[Path]:
    """Return the folders for compiled kernels: $XDG_CACHE_HOME/glm_home or ~/.cache/glm_home, then a temporary one.

    The second one is for users of containers who have no home, or one that cannot be written.
    """
    folders = [Path(os.environ.get("TMPDIR") or "/tmp") / f"glm_home-{os.getuid()}"]
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    with contextlib.suppress(RuntimeError):  # the system does not know the user
        folders.insert(0, (root if root.is_absolute() else Path.home() / ".cache") / "glm_home")
    return folders


def find_compiler() -> list[str]:
    """Return the C++ compiler's command: $CXX with its arguments, the first of the usual names in PATH, or ziglang.

    Raises:
        BuildError: there is none.
    """
    named = shlex.split(os.environ.get("CXX", ""))
    for name in named[:1] or COMPILERS:
        if path := shutil.which(name):
            return [path, *named[1:]]
    if named:
        raise BuildError(f"CXX={named[0]} was not found")
    if find_spec(_ZIG):
        return [sys.executable, "-m", _ZIG, "c++"]
    raise BuildError(f"no C++ compiler ({', '.join(COMPILERS)}) in PATH; pip install {_ZIG} brings one")


def build(instructions: str, source: Path = SOURCE / "kernels.cpp") -> Path:
    """Return the path of the compiled library; compile it if it is not in the cache.

    Args:
        instructions: a name of :data:`INSTRUCTION_SETS`.
        source: a C++ file; all of ``csrc`` decides with it whether a cached library is up to date.

    Raises:
        BuildError: no compiler, one that fails, or a cache that cannot be written.
    """
    if sys.platform == "win32":
        raise BuildError("not built on Windows")
    compiler = find_compiler()
    options = [*_OPTIONS, *INSTRUCTION_SETS[instructions][1]]
    if _ZIG in compiler:
        options = [_ZIG_SPELLING.get(option, option) for option in options]
    command = [*compiler, *options, str(source)]
    name = f"{source.stem}-{instructions}-{_fingerprint(command, _run([*compiler, '--version']))}.so"
    problems = []
    for cache in cache_folders():
        try:
            return _cached(command, cache, name)
        except OSError as error:
            problems.append(f"the cache {cache} cannot be used: {error}")
    raise BuildError("; ".join(problems))


def _cached(command: list[str], cache: Path, name: str) -> Path:
    library = _private_folder(cache) / name
    if not library.exists():
        with _lock(cache / "build.lock"):
            if not library.exists():
                _compile(command, library)
    return library


def _private_folder(folder: Path) -> Path:
    """Return the folder, made if missing; raise PermissionError if others may write there, for what it holds is run."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(f"{folder} belongs to another user or others may write there")
    if os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0):
        raise PermissionError(f"{folder} is on a file system from which nothing may run")
    return folder


def _fingerprint(command: list[str], version: str) -> str:
    digest = hashlib.sha256()
    for path in sorted({*SOURCE.iterdir(), Path(command[-1])}):
        digest.update(path.read_bytes())
    digest.update("\0".join([*command[:-1], version]).encode())
    return digest.hexdigest()[:16]


def _compile(command: list[str], library: Path) -> None:
    if _ZIG in command:
        logger.warning("compiling the kernel for INT4 and INT8 with %s: a minute or two, this once", _ZIG)
    with temporary_folder(f"{library.stem}-", library.parent) as folder:
        unfinished = Path(folder) / library.name
        _run([*command, "-o", str(unfinished)])
        unfinished.replace(library)


def _run(command: list[str]) -> str:
    try:
        done = run_alone(command, _TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} did not run: {error}") from error
    if done.returncode:
        if os.strerror(errno.ENOSPC) in done.stderr:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        raise BuildError(f"{command[0]} failed: {lines[0].strip() if lines else f'exit status {done.returncode}'}")
    return done.stdout


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock that one process at a time has; the system releases it if the process dies.

    It saves work and no more, so a file system that has no locks is no reason to fail.
    """
    import fcntl  # not on Windows

    with path.open("w") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
