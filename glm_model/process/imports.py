"""Explains a Python or a library that does not fit this project, in a sentence with the remedy."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Iterator  # noqa: UP035 - that of collections.abc has no [] in Python 3.8

OLDEST_PYTHON = (3, 11)
# What pyproject.toml asks for: the oldest release, and the first that is too new.
RELEASES = {"torch": ((2, 11), None), "transformers": ((5, 17), (6,))}
_COMPANIONS = ("torchvision", "torchaudio")
_OURS = ("app", "demo_recipe", "glm_app", "glm_model")
_PROJECT = Path(__file__).resolve().parents[2]
_IN_CHECKOUT = (_PROJECT / "requirements.txt").exists()


class UnfitLibraryError(ImportError):
    """The error of ``import glm_model`` beside a library that keeps transformers from working."""


def old_python() -> str | None:
    """Return the sentence for a Python that is too old, None for one that is not."""
    if sys.version_info >= OLDEST_PYTHON:
        return None
    own, needed = (".".join(map(str, version)) for version in (sys.version_info[:3], OLDEST_PYTHON))
    return (
        f"Python {needed} or newer is needed, and {sys.executable} is {own}: run this with another Python, or in an "
        "image that has one (see Docker in README.md)."
    )


def keep_checkout_clean() -> None:
    """Write no byte code if root runs a checkout of somebody else, who could not delete ``__pycache__`` of root.

    Python has written that of the first modules before this can be called, so it is removed here.
    """
    if not _IN_CHECKOUT or os.name != "posix" or os.geteuid() != 0 or _PROJECT.stat().st_uid == 0:
        return
    sys.dont_write_bytecode = True
    for module in list(sys.modules.values()):
        spec = getattr(module, "__spec__", None)
        cached = Path(getattr(spec, "cached", None) or "")
        if _PROJECT in cached.parents and cached.is_file() and cached.stat().st_uid == 0:
            cached.unlink()
            if not any(cached.parent.iterdir()):
                cached.parent.rmdir()


@contextmanager
def explained(requirement: str = "glm-home") -> Iterator[None]:
    """Turn an error of the imports in the block into SystemExit with a sentence that names library and remedy.

    Args:
        requirement: what pip is asked for if the program was installed from a wheel, such as ``glm-home[web]``.

    Raises:
        SystemExit: a third-party library is missing, is of a release that does not fit, or cannot be imported.
        ImportError: a module of this project is missing, which is a fault of the code.
    """
    try:
        with companions_explained():
            yield
    except UnfitLibraryError as error:
        sys.exit(str(error))
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        sentence = _wrong_release() or _unimportable(error)
        if sentence is None:
            raise
        sys.exit(f"{sentence}: run\n  {_remedy(requirement)}")


@contextmanager
def companions_explained() -> Iterator[None]:
    """Turn any error of the block into an UnfitLibraryError if it comes from a torchvision or torchaudio.

    Both are compiled for one release of torch. Where torch was replaced, the one that stays behind cannot be imported
    any more, and transformers, which needs neither for text, imports them if they are there.
    """
    try:
        yield
    except Exception as error:
        library = _origin(error)
        if library is None:
            raise
        raise UnfitLibraryError(
            f"{library} does not fit the installed torch, and transformers cannot be imported beside it; nothing here "
            f"needs it. Remove it: {sys.executable} -m pip uninstall -y {' '.join(_COMPANIONS)}",
            name=library,
        ) from error


def _origin(error: BaseException | None) -> str | None:
    """Return the name in ``_COMPANIONS`` of the library in which an error or one of its causes was raised."""
    while error is not None:
        trace: TracebackType | None = error.__traceback__
        while trace is not None:
            library = str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0]
            if library in _COMPANIONS:
                return library
            trace = trace.tb_next
        error = error.__cause__ or error.__context__
    return None


def _wrong_release() -> str | None:
    from importlib import metadata  # slow

    for library, (oldest, too_new) in RELEASES.items():
        try:
            version = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
        numbers = tuple(int(part) for part in version.split("+")[0].split(".") if part.isdigit())
        if numbers < oldest or (too_new is not None and numbers >= too_new):
            wanted = f"{_dotted(oldest)} or newer" + (f", before {_dotted(too_new)}," if too_new else "")
            return f"{library} {wanted} is needed, and {version} is installed for {sys.executable}"
    return None


def _dotted(release: tuple[int, ...]) -> str:
    return ".".join(map(str, release))


def _unimportable(error: BaseException) -> str | None:
    while error.__cause__ is not None:  # transformers raises an ImportError of its own from the one that matters
        error = error.__cause__
    library = (getattr(error, "name", None) or "").partition(".")[0]
    if not isinstance(error, ImportError) or library in ("", *_OURS):
        return None
    if isinstance(error, ModuleNotFoundError):
        return f"{library} is not installed for {sys.executable}"
    return f"{library} cannot be imported by {sys.executable} ({error})"


def _remedy(requirement: str) -> str:
    install = f"{sys.executable} -m pip install"
    if not _IN_CHECKOUT:
        return f'{install} "{requirement}"'
    remedy = f"{install} -r requirements.txt\nor `make run`, which makes an environment in .venv"
    if _is_managed():
        remedy += (
            "\n(pip calls this Python externally managed and refuses: in a container say PIP_BREAK_SYSTEM_PACKAGES=1 "
            "before the command, elsewhere take `make run`)"
        )
    return remedy


def _is_managed() -> bool:
    """Return whether pip refuses to install for this Python (PEP 668), as for those of Debian and Ubuntu."""
    import sysconfig  # slow

    in_environment = sys.prefix != sys.base_prefix
    return not in_environment and (Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED").exists()
