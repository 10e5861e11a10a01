"""What a front-end says where a library is not installed, as in a fresh clone outside its environment.

Imports nothing heavy: it stands around the first import that is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .names import INSTALLED, PACKAGE


@contextmanager
def missing_library_explained(requirement: str) -> Iterator[None]:
    """End the program with a sentence, where Python would with a traceback.

    Args:
        requirement: what pip has to be asked for where a wheel was installed without the library: `glm-home[web]`.
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
