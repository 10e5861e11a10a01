"""Keep compiled libraries in a folder of the user's, and return only what is whole and the user's own.

What is loaded into the process is run, and a library that is not whole ends the process by a signal. So the name of a
file ends with a checksum of its content, which is compared before the content is used; what does not fit is removed and
made again. A library is made in a folder beside it, written to the disk and then renamed, so that a process that is
killed leaves no half of one.
"""

import contextlib
import errno
import hashlib
import logging
import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..process.leftovers import temporary_folder

logger = logging.getLogger(__name__)

_NAME = "glm_home"
_CHECKSUM = 32  # characters
_LARGEST = 64 << 20  # bytes; a library has less than one
_SPACE = 4 << 20  # bytes that a compiler needs beside the library
_UNFINISHED = "build-"  # begins the names of folders in which libraries are made
_PATIENCE = 120  # seconds that another process may need to make a library before this one makes its own
_NO_LOCKS = 24 * 3600  # seconds after which a folder counts as abandoned where the file system has no locks


class Place(NamedTuple):
    """Where a cache may be.

    Attributes:
        folder: the cache itself, which is made if it is missing.
        base: the folder that must be there already.
    """

    folder: Path
    base: Path


def places() -> list[Place]:
    """Return where the cache may be: below $XDG_CACHE_HOME or ~/.cache, then in the folder for temporary files.

    The second name in the first is for users who share it with others, as a volume of containers; the temporary folder
    for those who have no home, or one that cannot be written. What is no path from the root is not used: the cache
    would lie wherever one works.
    """
    own = f"{_NAME}-{os.getuid()}"
    temporary = Path(os.environ.get("TMPDIR", ""))
    temporary = temporary if temporary.is_absolute() else Path("/tmp")
    root = base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if root.is_absolute():
        base = Path(root.anchor)
    else:
        with contextlib.suppress(RuntimeError):  # the system does not know the user
            base = Path(os.environ["HOME"] if "HOME" in os.environ else Path.home())
            root = base / ".cache"
    found = [Place(root / name, base) for name in (_NAME, own)] if root.is_absolute() else []
    return [*found, Place(temporary / own, temporary)]


def find(folder: Path, name: str, unfit: Path | None = None) -> Path | None:
    """Return the library of this name whose content has the checksum in its own, or None.

    Args:
        folder: the cache; nothing is found in one that is not there, or that others may write.
        name: the beginning of the file's name, which says what decides its content.
        unfit: a library that is not to be returned.
    """
    try:
        _require_private(folder)
        for path in sorted(folder.glob(f"{name}-*.so")):
            if path != unfit and content(path) is not None:
                return path
    except OSError:
        pass  # whoever wants to make one there learns why not
    return None


def remove_unfit(folder: Path, name: str, unfit: Path | None = None) -> None:
    """Remove the libraries of this name of which :func:`find` returned none, and say so of others than ``unfit``.

    Only whoever holds the :func:`lock` may do so: another process may have put a whole one in the place of each.

    Raises:
        OSError: one cannot be removed.
    """
    for path in sorted(folder.glob(f"{name}-*.so")):
        if path != unfit:
            logger.warning("%s is not as it was made, so it is removed and made again", path)
        remove(path)


def content(path: Path) -> bytes | None:
    """Return the content of a library; None if it is not what the name says, or not of this user alone."""
    try:
        # A pipe must not make us wait, nor a link lead elsewhere.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = os.fstat(handle)
        is_own = status.st_uid == os.getuid() and not status.st_mode & 0o022
        if not (stat.S_ISREG(status.st_mode) and is_own and status.st_size <= _LARGEST):
            return None
        with open(handle, "rb", closefd=False) as file:
            found = file.read(_LARGEST)
    except OSError:
        return None
    finally:
        os.close(handle)
    return found if path.stem.endswith(f"-{_checksum(found)}") else None


def _checksum(found: bytes) -> str:
    return hashlib.sha256(found).hexdigest()[:_CHECKSUM]


def make_private(place: Place) -> None:
    """Make the cache if it is missing.

    Raises:
        OSError: it cannot be made, others may write there, nothing may be run from there, or no space is left.
    """
    if not place.base.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "there is no such folder", str(place.base))
    place.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _require_private(place.folder)
    free = os.statvfs(place.folder)
    if free.f_blocks and free.f_bavail * free.f_frsize < _SPACE:  # seen before a compiler has worked in vain
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _require_private(folder: Path) -> None:
    link, status = folder.lstat(), folder.stat()  # of a link, and of what it leads to
    if {link.st_uid, status.st_uid} != {os.getuid()}:
        raise PermissionError("it belongs to another user")
    if status.st_mode & 0o022:
        raise PermissionError("others may write there")
    if os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0):
        raise PermissionError("nothing may run from its file system")


def keep(folder: Path, name: str, library: Path) -> Path:
    """Move a library that was made in an :func:`unfinished_folder` into the cache, and return its new path.

    Raises:
        OSError: the folder cannot be written, or the library is too large to be one.
    """
    if library.stat().st_size > _LARGEST:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(library))
    library.chmod(0o700)
    with library.open("rb") as file:
        os.fsync(file.fileno())
        kept = folder / f"{name}-{_checksum(file.read())}.so"
    remove(kept)
    library.replace(kept)
    return kept


def remove(path: Path) -> None:
    """Remove a file, a link or a folder; raise OSError if that is not possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def unfinished_folder(folder: Path) -> Iterator[Path]:
    """Make a folder in the cache for the time of the block, and remove those of processes that were killed.

    Its process holds a lock on it, so that others see that it is in use.
    """
    with temporary_folder(_UNFINISHED, folder) as name, _lock(Path(name), 0):
        for path in folder.glob(f"{_UNFINISHED}*"):
            with contextlib.suppress(OSError):
                if _is_abandoned(path):
                    remove(path)
        yield Path(name)


def _is_abandoned(path: Path) -> bool:
    """Return whether no process works in a folder."""
    import fcntl  # not on Windows

    age = time.time() - path.lstat().st_mtime
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return any(path.iterdir()) or age > _PATIENCE  # its process may be about to lock it
    except BlockingIOError:
        return False
    except OSError:
        return age > _NO_LOCKS
    finally:
        os.close(handle)


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the cache's lock, which keeps two processes from making the same library, while the block runs.

    It saves work and no more: neither a file system that has no locks nor a process that holds it too long is a reason
    to fail. The system releases it if the process dies.
    """
    with _lock(folder / "build.lock", _PATIENCE, os.O_RDWR | os.O_CREAT):
        yield


@contextlib.contextmanager
def _lock(path: Path, patience: float, flags: int = os.O_RDONLY) -> Iterator[None]:
    import fcntl  # not on Windows

    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, handle)
            until = time.monotonic() + patience
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= until:
                        break
                    time.sleep(0.05)
        yield
