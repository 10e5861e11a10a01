"""The kernel's cache in whatever state: no start ends by a signal, and the second one has the fast kernel again.

    python -m tests.quantization.cache_states --count 200

Each state is a cache with a library in it that is then damaged, or replaced, or made by several processes at once. The
starts are forks of this process, which has imported everything and found no kernel yet; the compiler is a stand-in that
copies a library made once.
"""

from __future__ import annotations

import _ctypes
import argparse
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from glm_model.kernels import choice, native

OTHER_USER = 12345
FAST, OTHER = 0, 3  # exit statuses of a start: with the native kernel, with another one

State = Callable[[Path, random.Random], None]
"""Changes a library in the cache, or what lies around it."""

Kind = Callable[["Starts", random.Random], list[int]]
"""Brings a cache into a state, and returns how the starts after that end; the last of them must be fast."""


def cut(library: Path, draw: random.Random) -> None:
    os.truncate(library, draw.randrange(library.stat().st_size))


def flip(library: Path, draw: random.Random) -> None:
    content = bytearray(library.read_bytes())
    for _ in range(draw.choice([1, 1, 2, 100])):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    library.write_bytes(content)


def zero(library: Path, draw: random.Random) -> None:
    content = bytearray(library.read_bytes())
    first = draw.randrange(len(content))
    content[first:] = bytes(len(content) - first)
    library.write_bytes(content)


def empty(library: Path, draw: random.Random) -> None:
    library.write_bytes(b"")


def longer(library: Path, draw: random.Random) -> None:
    library.write_bytes(library.read_bytes() + draw.randbytes(100))


def huge(library: Path, draw: random.Random) -> None:
    os.truncate(library, 1 << 40)


def mode(library: Path, draw: random.Random) -> None:
    library.chmod(draw.choice([0o000, 0o400, 0o666, 0o777, 0o720, 0o702]))


def owner(library: Path, draw: random.Random) -> None:
    if os.getuid() == 0:
        os.chown(library, OTHER_USER, OTHER_USER)


def owner_of_folder(library: Path, draw: random.Random) -> None:
    if os.getuid() == 0:
        os.chown(library.parent, OTHER_USER, OTHER_USER)


def mode_of_folder(library: Path, draw: random.Random) -> None:
    library.parent.chmod(draw.choice([0o777, 0o770, 0o1777]))


def link(library: Path, draw: random.Random) -> None:
    kept = library.rename(library.parent.parent / "elsewhere.so")
    library.symlink_to(draw.choice([kept, library, Path("/no/such/file"), Path("/dev/zero")]))


def folder(library: Path, draw: random.Random) -> None:
    library.unlink()
    library.mkdir()
    (library / "file").touch()


def pipe(library: Path, draw: random.Random) -> None:
    library.unlink()
    os.mkfifo(library)


def lock(library: Path, draw: random.Random) -> None:
    library.unlink()
    place = library.parent / "build.lock"
    place.unlink(missing_ok=True)
    kinds: list[Callable[[], None]] = [place.mkdir, lambda: os.mkfifo(place), lambda: place.symlink_to("/no/such/file")]
    draw.choice(kinds)()


def gone(library: Path, draw: random.Random) -> None:
    library.unlink()


def other_library(library: Path, draw: random.Random) -> None:
    """What can be loaded and has none of our functions."""
    shutil.copy(_ctypes.__file__, library)


def abandoned(library: Path, draw: random.Random) -> None:
    """What a builder leaves that was killed."""
    library.unlink()
    place = library.parent / f"{library.stem[:-33]}-abc"
    place.mkdir()
    (place / "half.so").write_bytes(b"half")
    os.utime(place, (0, 0))


STATES: list[State] = [
    *(
        cut,
        flip,
        zero,
        empty,
        longer,
        huge,
        mode,
        owner,
        owner_of_folder,
        mode_of_folder,
        link,
        folder,
        pipe,
        lock,
        gone,
    ),
    *(other_library, abandoned),
]


class Starts:
    """Starts of programs that look for the kernel, with a compiler that copies a library made once.

    Args:
        place: an empty folder.
        seconds: what the compiler takes.
    """

    def __init__(self, place: Path, seconds: float = 0.0) -> None:
        self._cache = place / "cache"
        made = native.find()
        assert isinstance(made, native.Library), made
        compiler = place / "compiler"
        compiler.write_text(
            "#!/bin/sh\n"
            '[ "$1" = --version ] && exec echo stand-in 1.0\n'
            f'while [ "$1" != -o ]; do shift; done\nsleep {seconds}\nexec cp {made.path} "$2"\n'
        )
        compiler.chmod(0o755)
        self._environment = {"CXX": str(compiler), "XDG_CACHE_HOME": str(self._cache), "TMPDIR": str(place)}

    def library(self) -> Path:
        """Return the whole library of a new cache."""
        shutil.rmtree(self._cache, ignore_errors=True)
        assert self.start() == [FAST]
        (library,) = (self._cache / "glm_home").glob("*.so")
        return library

    def start(self, count: int = 1, kill_after: float | None = None) -> list[int]:
        """Start so many programs at once, and return how each ended: FAST, OTHER, or minus a signal."""
        children = [self._fork() for _ in range(count)]
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(children[0], signal.SIGKILL)
        return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]

    def _fork(self) -> int:
        child = os.fork()
        if child:
            return child
        try:
            signal.alarm(60)
            os.environ.update(self._environment)
            native.find.cache_clear()
            choice.wanted.cache_clear()
            os._exit(FAST if isinstance(native.find(), native.Library) else OTHER)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(4)


def two_starts(state: State) -> Kind:
    """Return how two starts end after a cache has come into a state."""

    def run(starts: Starts, draw: random.Random) -> list[int]:
        state(starts.library(), draw)
        return [*starts.start(), *starts.start()]

    return run


def races(starts: Starts, draw: random.Random) -> list[int]:
    """Return how eight starts at once and one more end, with a damaged library in the cache or none."""
    draw.choice([gone, cut, flip])(starts.library(), draw)
    return [*starts.start(8), *starts.start()]


def killed(starts: Starts, draw: random.Random) -> list[int]:
    """Return how the starts end that come after one that was killed while it made the library."""
    gone(starts.library(), draw)
    starts.start(2, kill_after=draw.uniform(0, 0.3))
    return [*starts.start(), *starts.start()]


KINDS: dict[str, Kind] = {
    **{state.__name__: two_starts(state) for state in STATES},
    "eight at once": races,
    "killed while building": killed,
}


def main() -> int:
    """Go through the states and print how the starts ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    ends: Counter[str] = Counter()
    failed = 0
    with tempfile.TemporaryDirectory() as place:
        starts = Starts(Path(place), seconds=0.05)
        for name in itertools.islice(itertools.cycle(KINDS), options.count):
            statuses = KINDS[name](starts, draw)
            good = min(statuses) >= 0 and statuses[-1] == FAST
            failed += not good
            ends[f"{name}: {'fast again' if good else statuses}"] += 1
    for text, count in sorted(ends.items()):
        print(f"{count:4}  {text}")
    print(f"{options.count} states, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
