"""The kernel's cache in whatever state: no start ends by a signal, and the second one has the fast kernel again.

    python -m tests.quantization.cache_states --count 200

Each state is a cache with a library in it that is then damaged, forged, or made by several processes at once, or whose
place is full, for reading only, shared with another user, or said badly; or a compiler that is none. The starts are
forks of this process, which has imported everything and not looked for a kernel; the compiler is a stand-in that copies
a library made once. What a start says must be a few printable lines without a traceback.
"""

from __future__ import annotations

import _ctypes
import argparse
import contextlib
import ctypes
import fcntl  # noqa: F401 - another user may not be allowed to read the file when the cache imports it
import hashlib
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from glm_model.kernels import native

OTHER_USER = 12345
FAST, OTHER, FAILED = 0, 3, 4  # exit statuses of a start: with the native kernel, with another one, with an exception
CHECKSUM = 32  # characters at the end of a library's name
LINES = 2  # that a start may say: a library is made again, and why there is no native kernel

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


def forge(library: Path, content: bytes) -> None:
    """Put other content in the place of a library, with the right checksum in the name."""
    base = library.stem[: -CHECKSUM - 1]
    forged = library.with_name(f"{base}-{hashlib.sha256(content).hexdigest()[:CHECKSUM]}.so")
    library.unlink()
    forged.write_bytes(content)
    forged.chmod(0o700)


def other_checksum(library: Path, draw: random.Random) -> None:
    base = library.stem[: -CHECKSUM - 1]
    library.rename(library.with_name(draw.choice([f"{base}-{draw.randbytes(CHECKSUM // 2).hex()}.so", f"{base}-.so"])))


def no_checksum(library: Path, draw: random.Random) -> None:
    library.rename(library.with_name(f"{library.stem[: -CHECKSUM - 1]}.so"))


def other_library(library: Path, draw: random.Random) -> None:
    """What can be loaded and has none of our functions."""
    forge(library, Path(_ctypes.__file__).read_bytes())


def other_machine(library: Path, draw: random.Random) -> None:
    """What was made for another kind of CPU, or for 32 bits."""
    content = bytearray(library.read_bytes())
    place, value = draw.choice([(18, 0xF3), (18, 0x28), (4, 1)])
    content[place] = value
    forge(library, bytes(content))


def other_layout(library: Path, draw: random.Random) -> None:
    """What says another ABI, or other structures."""
    known, other = draw.choice([(b"abi ", b"abj "), (b"\nDecoder ", b"\nDecodex ")])
    content = library.read_bytes()
    assert known in content
    forge(library, content.replace(known, other))


def no_library(library: Path, draw: random.Random) -> None:
    forge(library, draw.choice([b"", b"text", bytes(4096)]))


def abandoned(library: Path, draw: random.Random) -> None:
    """What a builder leaves that was killed."""
    library.unlink()
    place = library.parent / "build-abc"
    place.mkdir()
    (place / "half.so").write_bytes(b"half")


STATES: list[State] = [
    *(cut, flip, zero, empty, longer, huge, mode, owner, owner_of_folder, mode_of_folder, link, folder, pipe, lock),
    *(gone, other_checksum, no_checksum, other_library, other_machine, other_layout, no_library, abandoned),
]


class Starts:
    """Starts of programs that look for the kernel, with a compiler that copies a library made once.

    Args:
        place: an empty folder.
        seconds: what the compiler takes.
    """

    def __init__(self, place: Path, seconds: float = 0.0) -> None:
        place.chmod(0o755)
        self.place = place
        self.root = place / "cache"
        self._said = place / "said"
        # By another process: a fork of one that has run OpenMP's threads waits for them without end.
        made = place / "made.so"
        assert self._wait_for(self._fork({}, lambda library: shutil.copy(library.path, made))) == FAST, self.said()
        made.chmod(0o755)
        compiler = place / "compiler"
        compiler.write_text(
            "#!/bin/sh\n"
            '[ "$1" = --version ] && exec echo stand-in 1.0\n'
            f'while [ "$1" != -o ]; do shift; done\nsleep {seconds}\nexec cp {made} "$2"\n'
        )
        compiler.chmod(0o755)
        self._environment = {"CXX": str(compiler), "XDG_CACHE_HOME": str(self.root), "TMPDIR": str(place)}

    def library(self) -> Path:
        """Return the whole library of a new cache."""
        shutil.rmtree(self.root, ignore_errors=True)
        for path in self.place.glob("glm_home*"):
            shutil.rmtree(path)
        assert self.start() == [FAST], self.said()
        (library,) = (self.root / "glm_home").glob("*.so")
        return library

    def start(
        self,
        count: int = 1,
        kill_after: float | None = None,
        user: int | None = None,
        environment: Mapping[str, str | None] | None = None,
    ) -> list[int]:
        """Start so many programs at once, and return how each ended: FAST, OTHER, FAILED, or minus a signal.

        Args:
            count: how many.
            kill_after: the seconds after which the first of them is killed.
            user: the number of the user that starts them; the one of this process by default.
            environment: variables that they have; None removes one.
        """
        self._said.unlink(missing_ok=True)
        children = [self._fork({**self._environment, **(environment or {})}, user=user) for _ in range(count)]
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(children[0], signal.SIGKILL)
        statuses = [self._wait_for(child) for child in children]
        lines = self.said().splitlines()
        assert len(lines) <= LINES * count, lines
        assert all(line.isprintable() and "Traceback" not in line for line in lines), lines
        return statuses

    def said(self) -> str:
        """Return what the last starts have said."""
        return self._said.read_text() if self._said.exists() else ""

    @staticmethod
    def _wait_for(child: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _fork(
        self,
        environment: Mapping[str, str | None],
        then: Callable[[native.Library], object] = lambda library: None,
        user: int | None = None,
    ) -> int:
        child = os.fork()
        if child:
            return child
        try:
            signal.alarm(60)
            os.dup2(os.open(self._said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), sys.stderr.fileno())
            for name, value in environment.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
            if user is not None:
                sys.executable = ""  # that user may not be allowed to start it; a library is not tried then
                os.setgid(user)
                os.setuid(user)
            found = native.find()
            if isinstance(found, native.Library):
                then(found)
            os._exit(FAST if isinstance(found, native.Library) else OTHER)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(FAILED)


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
    statuses = [*starts.start(), *starts.start()]
    cut(next(starts.root.glob("*/*.so")), draw)
    statuses += starts.start()
    left = list(starts.root.glob("*/build-*"))
    assert not [path for path in left if list(path.iterdir())], left
    return statuses


def shared(starts: Starts, draw: random.Random) -> list[int]:
    """Return how the starts of two users end whose caches are in one place, as in a volume of containers."""
    shutil.rmtree(starts.root, ignore_errors=True)
    starts.root.mkdir()
    starts.root.chmod(0o1777)
    users: list[int | None] = [None, OTHER_USER] if os.getuid() == 0 else [None, None]
    draw.shuffle(users)
    return [status for user in users * 2 for status in starts.start(user=user)]


@contextlib.contextmanager
def mounted(place: Path, kind: bytes, flags: int, options: bytes | None) -> Iterator[bool]:
    """Mount a file system for the time of the block, and say whether that was possible."""
    libc = ctypes.CDLL(None)
    name = os.fsencode(place)
    done = sys.platform == "linux" and os.getuid() == 0 and libc.mount(name, name, kind, flags, options) == 0
    try:
        yield done
    finally:
        if done:
            libc.umount2(name, 2)  # MNT_DETACH: starts may still have it open


def full(starts: Starts, draw: random.Random) -> list[int]:
    """Return how two starts end with a cache that has less space than a library or its making needs."""
    shutil.rmtree(starts.library().parent)
    size = draw.choice([4, 8, 64, 128, 256, 350])
    with mounted(starts.root, b"tmpfs", 0, b"size=%dk" % size):
        return [*starts.start(), *starts.start()]


def for_reading_only(starts: Starts, draw: random.Random) -> list[int]:
    """Return how two starts end with a whole or a damaged library that cannot be written."""
    draw.choice([cut, mode, other_layout, gone, lambda library, draw: None])(starts.library(), draw)
    bind, remount, read_only = 4096, 32, 1
    with mounted(starts.root, b"", bind, None) as done:
        if done:
            ctypes.CDLL(None).mount(b"", os.fsencode(starts.root), None, bind | remount | read_only, None)
        return [*starts.start(), *starts.start()]


def folders(starts: Starts, draw: random.Random) -> list[int]:
    """Return how a start with badly said folders ends and how one with others does."""
    starts.library()
    names = {"XDG_CACHE_HOME": None, "HOME": str(starts.root), "TMPDIR": str(starts.place)}
    bad = draw.choice([None, "", ".", "relative/folder", "/dev/null", "/proc", "/no/such/folder", "~", "x" * 5000])
    before = set(Path().iterdir())
    statuses = starts.start(environment={**names, draw.choice(list(names)): bad})
    assert set(Path().iterdir()) == before, "a cache below the working directory"
    return [*statuses, *starts.start()]


BAD_COMPILERS = [
    *("'", '"', "\\", "false", "true", "/no/such", "/", ".", "-", "''", "cat", "echo", "gcc -E", "\x1b[2J", "g++ -c"),
    *("sh -c 'kill -9 $$'", "sh -c 'yes | head -c 100000000'", "g++ -nostdlib -Wl,--defsym=x=0 -x none", "x " * 5000),
]


def compilers(starts: Starts, draw: random.Random) -> list[int]:
    """Return how a start with a compiler that is none ends, after which one has the right one again."""
    draw.choice([gone, cut])(starts.library(), draw)
    named = draw.choice(BAD_COMPILERS)
    statuses = starts.start(environment={"CXX": named})
    assert statuses == [OTHER], (named, statuses)
    assert "CXX=" in starts.said(), (named, starts.said())
    return [*statuses, *starts.start()]


KINDS: dict[str, Kind] = {
    **{state.__name__: two_starts(state) for state in STATES},
    "eight at once": races,
    "killed while building": killed,
    "two users": shared,
    "full": full,
    "for reading only": for_reading_only,
    "folders": folders,
    "compilers": compilers,
}


def have_own_mounts() -> None:
    """Give this process file systems of its own, where the system lets it, so that none stays mounted."""
    new_namespace, private = 0x20000, 1 << 18 | 1 << 14
    if sys.platform == "linux" and os.getuid() == 0:
        libc = ctypes.CDLL(None)
        if libc.unshare(new_namespace) == 0:
            libc.mount(b"none", b"/", None, private, None)


def main() -> int:
    """Go through the states and print how the starts ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", default=list(KINDS), help=f"of: {', '.join(KINDS)}")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    have_own_mounts()
    ends: Counter[str] = Counter()
    failed = 0
    with tempfile.TemporaryDirectory() as place:
        starts = Starts(Path(place), seconds=0.05)
        for name in itertools.islice(itertools.cycle(options.kinds), options.count):
            try:
                statuses = KINDS[name](starts, draw)
                good = min(statuses) >= 0 and FAILED not in statuses and statuses[-1] == FAST
                end = "fast again" if good else f"{statuses} {starts.said()}"
            except AssertionError as error:
                good, end = False, str(error)
            failed += not good
            ends[f"{name}: {end}"] += 1
    for text, count in sorted(ends.items()):
        print(f"{count:4}  {text}")
    print(f"{options.count} states, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
