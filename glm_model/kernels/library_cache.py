"""Keep compiled libraries in a folder of the user's, and return only what is whole and the user's own.

What is loaded into the process is run, and a library that is not whole ends the process by a signal. So the name of a
file ends with a checksum of its content, which is compared before the file is used; what does not fit is removed and
made again. A library is made under another name and renamed, so that a process that is killed leaves no half of one,
and a lock keeps two processes from both making it.
"""

import contextlib
import hashlib
import logging
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ..process.leftovers import temporary_folder

logger = logging.getLogger(__name__)

_NAME = "glm_home"
_CHECKSUM = 32  # characters
_LARGEST = 64 << 20  # bytes; a library has less than one
_PATIENCE = 330  # seconds that another process may need to make a library


def folders() -> list[Path]:
    """Return the folders that may hold the cache: below $XDG_CACHE_HOME or ~/.cache, then a temporary one.

    The second name in each is for users who share the place with another one, as the volume of a container; the
    temporary folder for those who have no home, or one that cannot be written.
    """
    own = f"{_NAME}-{os.getuid()}"
    temporary = Path(os.environ.get("TMPDIR") or "/tmp") / own
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    with contextlib.suppress(RuntimeError):  # the system does not know the user
        root = root if root.is_absolute() else Path(os.environ.get("HOME", Path.home()), ".cache")
    found = [root / _NAME, root / own] if root.is_absolute() else []
    return [*found, temporary] if temporary.is_absolute() else found


def get(folder: Path, name: str, make: Callable[[Path], None]) -> Path:
    """Return the path of a library, made if it is not there or not whole.

    Args:
        folder: the cache.
        name: the beginning of the file's name, which says what decides its content.
        make: writes the library to the path that it gets; its errors are passed on.

    Raises:
        OSError: the folder cannot be used.
    """
    folder = _private(folder)
    found = _whole(folder, name)
    if found is None:
        with _lock(folder / "build.lock"):
            found = _whole(folder, name)
            if found is None:
                _remove_abandoned(folder)
                found = _made(folder, name, make)
    return found


def _private(folder: Path) -> Path:
    """Return the folder, made if missing; raise PermissionError if others may write there, for what it holds is run."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for status in (folder.lstat(), folder.stat()):  # of a link, and of what it leads to
        if status.st_uid != os.getuid():
            raise PermissionError(f"{folder} belongs to another user")
    if folder.stat().st_mode & 0o022:
        raise PermissionError(f"others may write to {folder}")
    if os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0):
        raise PermissionError(f"{folder} is on a file system from which nothing may run")
    return folder


def _whole(folder: Path, name: str) -> Path | None:
    """Return the library of this name whose content has the checksum in its name, and remove others."""
    for path in sorted(folder.glob(f"{name}-*.so")):
        if path.stem.removeprefix(f"{name}-") == _checksum_of_own(path):
            return path
        logger.warning("%s is not as it was made, so it is removed and made again", path)
        _remove(path)
    return None


def _checksum_of_own(path: Path) -> str | None:
    """Return the checksum of a plain file that this user alone can write, None of anything else."""
    try:
        # A pipe must not make us wait, nor a link lead elsewhere.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        is_own = status.st_uid == os.getuid() and not status.st_mode & 0o022
        if not (stat.S_ISREG(status.st_mode) and is_own and status.st_size <= _LARGEST):
            return None
        return _checksum(file.read())


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_CHECKSUM]


def _made(folder: Path, name: str, make: Callable[[Path], None]) -> Path:
    with temporary_folder(f"{name}-", folder) as place:
        unfinished = Path(place) / f"{name}.so"
        make(unfinished)
        unfinished.chmod(0o700)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
            checksum = _checksum(file.read())
        library = folder / f"{name}-{checksum}.so"
        _remove(library)
        unfinished.replace(library)
    return library


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_abandoned(folder: Path) -> None:
    """Remove the temporary folders of processes that were killed; called by the one that holds the lock."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if path.is_dir() and time.time() - path.stat().st_mtime > _PATIENCE:
                _remove(path)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock that one process at a time has; the system releases it if the process dies.

    It saves work and no more: neither a file system that has no locks nor a process that holds it too long is a reason
    to fail.
    """
    import fcntl  # not on Windows

    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            handle = os.open(path, flags, 0o600)
            stack.callback(os.close, handle)
            until = time.monotonic() + _PATIENCE
            while time.monotonic() < until:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(0.05)
        yield
