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
from .try_library import DONE

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).parent / "csrc"
COMPILERS = ("g++", "clang++", "c++")
_ZIG = "ziglang"  # a module whose c++ is clang++ in all but the names of CPUs
_ZIG_SPELLING = {"-march=armv8.2-a+dotprod": "-mcpu=generic+dotprod", "-march=x86-64": "-mcpu=baseline"}
# The two on mathematics: nobody asks for errno or floating-point exceptions, and loops that keep them are no vectors.
_OPTIONS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
_TIMEOUT = 300  # seconds; it takes ten, and with ziglang, which makes itself a C++ library first, sixty
_QUICK_TIMEOUT = 30  # of what takes less than one: the compiler's version, a program of two lines, loading a library
_LINE = 200  # characters of a compiler's message, or of CXX, that are passed on
_SMALL_SOURCE = '#include <stdexcept>\nvoid glm_fail() { throw std::runtime_error(""); }\n'
_TRIAL = Path(__file__).with_name("try_library.py")

_AVX2 = ("avx2", "fma3", "f16c")
_AVX512 = ("avx512_f", "avx512_bw", "avx512_vl", "avx512_dq", "avx512_vnni")
# The first takes back what a -march in CXX allows: the CPU need not have that.
_AVX2_OPTIONS = ("-march=x86-64", "-mavx2", "-mfma", "-mf16c")
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
        raise _blame(f"is no command: {error}") from None
    for name in named[:1] or COMPILERS:
        if path := shutil.which(name):
            return [path, *named[1:]]
    if named:
        raise BuildError(f"CXX={_line(named[0])} was not found; set CXX to a C++ compiler, or unset it")
    if find_spec(_ZIG):
        return [sys.executable, "-m", _ZIG, "c++"]
    raise BuildError(f"no C++ compiler ({', '.join(COMPILERS)}) in PATH; pip install {_ZIG} brings one")


def _blame(what: str) -> BuildError:
    """Return an error that says what a compiler has done, with CXX if that names it, and what helps."""
    if named := os.environ.get("CXX", "").strip():
        return BuildError(f"CXX={_line(named)} {what}; set CXX to a C++ compiler, or unset it")
    return BuildError(f"{_line(shlex.join(find_compiler()))} {what}; set CXX to another C++ compiler")


def _line(text: str) -> str:
    """Return the beginning of a text that may hold anything, fit for one line of a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:_LINE])


def try_in_a_process(library: Path, *, multiply: bool = False) -> None:
    """Try a library in a process of its own: a compiler is not to be trusted, and what it made may end its process.

    Args:
        library: the file.
        multiply: call the kernel, too; otherwise the library is loaded.

    Raises:
        BuildError: the process ends by a signal or with an error.
    """
    if not sys.executable:  # Python is a part of another program, which would be started instead
        return
    command = [sys.executable, "-I", "-S", str(_TRIAL), str(library), *(["multiply"] if multiply else [])]
    try:
        done = run_alone(command, _QUICK_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _blame(f"made a library that cannot be tried ({_line(str(error))})") from error
    if done.returncode or not done.stdout.endswith(f"{DONE}\n"):
        lines = done.stdout.replace(f"{library}: ", "").split("\n")
        why = _line(next(filter(None, reversed(lines)), "")) or f"exit status {done.returncode}"
        raise _blame(f"made a library that cannot be used ({why})")


def build(
    instructions: str,
    source: Path = SOURCE / "kernels.cpp",
    try_out: Callable[[Path], None] = try_in_a_process,
    unfit: Path | None = None,
) -> Path:
    """Return the path of the compiled library; compile it if it is not in the cache, or not whole.

    Args:
        instructions: a name of :data:`INSTRUCTION_SETS`.
        source: a C++ file; all of ``csrc`` decides with it whether a cached library is up to date.
        try_out: is called with a library that was just compiled, before it comes into the cache; raises
            :class:`BuildError` if it is none.
        unfit: a library that this returned before and that cannot be used although it is whole; it is made again.

    Raises:
        BuildError: no compiler, one that fails, or a cache that cannot be written.
    """
    if sys.platform == "win32":
        raise BuildError("not built on Windows")
    compiler = find_compiler()
    options = [*_OPTIONS, *INSTRUCTION_SETS[instructions][1]]
    if _ZIG in compiler:
        options = [_ZIG_SPELLING.get(option, option) for option in options]
    command = [*compiler, *options]
    try:
        name = f"{source.stem}-{instructions}-{_fingerprint(compiler, options, source)}"
    except OSError as error:
        raise BuildError(f"the kernel's source cannot be read ({error}); install this package again") from error
    for place in library_cache.places():
        if found := library_cache.find(place.folder, name, unfit):
            return found
    problems = []
    for place in library_cache.places():
        try:
            library_cache.make_private(place)
            return _build(command, source, place.folder, name, try_out, unfit)
        except OSError as error:
            problems.append(f"the cache {_line(str(place.folder))} cannot be used: {error}")
    raise BuildError(f"{'; '.join(problems)}; set XDG_CACHE_HOME to a folder of yours")


def _build(
    command: list[str], source: Path, cache: Path, name: str, try_out: Callable[[Path], None], unfit: Path | None
) -> Path:
    """Return the library, made in a cache, perhaps by another process; raise OSError if the cache cannot be used."""
    if _ZIG in command:
        logger.warning("compiling the kernel for INT4 and INT8 with %s: a minute or two, this once", _ZIG)
    with library_cache.unfinished_folder(cache) as folder:
        _require_a_compiler(command, folder)
        with library_cache.lock(cache):
            if found := library_cache.find(cache, name, unfit):
                return found
            library_cache.remove_unfit(cache, name, unfit)
            library = folder / f"{name}.so"
            _compile(command, source, library, _TIMEOUT)
            try_out(library)
            return library_cache.keep(cache, name, library)


def _require_a_compiler(command: list[str], folder: Path) -> None:
    """Raise BuildError if a compiler does not make a small library that can be loaded: that takes half a second.

    So a compiler that hangs, or that makes something else, is found at each start without a long wait for it.
    """
    small = folder / "small.cpp"
    small.write_text(_SMALL_SOURCE)
    library = small.with_suffix(".so")
    _compile(command, small, library, _TIMEOUT if _ZIG in command else _QUICK_TIMEOUT)
    try_in_a_process(library)


def _libraries(command: list[str]) -> list[str]:
    """Return what a C compiler, which may stand behind other programs, has to be told to link C++ with."""
    names = [Path(word).name for word in command]
    is_c = any(re.fullmatch(r"(.*-)?(gcc|clang|cc)(-[\d.]+)?", name) for name in names)
    return [("-lc++" if sys.platform == "darwin" else "-lstdc++")] if is_c else []


def _fingerprint(compiler: list[str], options: list[str], source: Path) -> str:
    """Return what decides the content of a library, and on which systems it can be used, as 16 characters.

    The compiler may have been told to compile for this CPU alone, and other machines may share the cache.
    """
    digest = hashlib.sha256()
    for path in sorted({*SOURCE.iterdir(), source}):
        digest.update(path.read_bytes())
    version = _run([*compiler, "--version"], _QUICK_TIMEOUT)
    libc = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else sys.platform
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    instructions = sorted(name for name, value in capabilities.items() if value is True)
    digest.update("\0".join([*compiler, *options, version, str(libc), *instructions]).encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _compile(command: list[str], source: Path, library: Path, timeout: float) -> None:
    # Its own temporary files lie beside the library: TMPDIR may be missing or full.
    environment = {"TMPDIR": str(library.parent)}
    _run([*command, str(source), *_libraries(command), "-o", str(library)], timeout, environment)
    if not library.is_file() or library.stat().st_size == 0:
        raise _blame("has written nothing")


def _run(command: list[str], timeout: float, environment: Mapping[str, str] | None = None) -> str:
    try:
        # What it says is read below, so it must say it in English.
        done = run_alone(command, timeout, {**os.environ, "LC_ALL": "C", **(environment or {})})
    except subprocess.TimeoutExpired as error:
        raise _blame(f"has not ended after {timeout} seconds") from error
    except (OSError, ValueError) as error:
        raise _blame(f"did not run: {_line(str(error))}") from error
    if done.returncode:
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            if environment and os.strerror(number) in done.stdout:
                raise OSError(number, os.strerror(number))
        errors = [line for line in done.stdout.splitlines() if "error" in line]
        said = _line("".join(errors[:1] or done.stdout.splitlines()[:1]).strip())
        raise _blame(f"failed: {said}" if errors else f"failed: exit status {done.returncode}{said and f' ({said})'}")
    return done.stdout
