"""What a front-end says where a library is not installed, as in a fresh clone outside its environment.

Imports nothing heavy: it stands around the first import that is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def missing_library_explained() -> Iterator[None]:
    """End the program with a sentence, where Python would with a traceback."""
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library in ("", "app", "glm_model"):
            raise
        sys.exit(
            f"{library} is not installed for {sys.executable}: run\n  {sys.executable} -m pip install "
            "-r requirements.txt\nor `make run`, which makes an environment in .venv"
        )
