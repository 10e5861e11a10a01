"""End a program with an explanation when a library that it needs is not installed.

This happens for example in a fresh clone that is run outside its virtual environment. The module imports only the
standard library, since it is used around the first import of a third-party library.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .names import INSTALLED, PACKAGE


@contextmanager
def missing_library_explained(requirement: str) -> Iterator[None]:
    """Turn a ModuleNotFoundError of the block into SystemExit with a sentence that names the library and the remedy.

    Args:
        requirement: the requirement to install with pip if the program was installed from a wheel, such as
            `glm-home[web]`.

    Raises:
        SystemExit: a third-party library is missing.
        ModuleNotFoundError: a module of this project is missing, which is a fault of the code.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library in ("", PACKAGE, "glm_model"):
            raise
        sys.exit(f"{library} is not installed for {sys.executable}: run\n  {_remedy(requirement)}")


def _remedy(requirement: str) -> str:
    install = f"{sys.executable} -m pip install"
    if INSTALLED:
        return f'{install} "{requirement}"'
    return f"{install} -r requirements.txt\nor `make run`, which makes an environment in .venv"
