"""Import ``glm_model/options`` without the rest of the model package.

``import glm_model.options`` runs ``glm_model/__init__.py``, which imports torch and transformers and takes seconds. The
files of ``glm_model/options`` need neither, so this module runs them as a package of another name; ``--help`` then
answers without delay. The classes of `package_settings` are therefore different objects from those of
``glm_model.options``, though they have the same fields. Values for the model package are made from
``glm_model.options`` itself (see ``Options.loading`` and ``Options.sampling``).
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

__all__ = ["package_settings"]

if TYPE_CHECKING:
    import glm_model.options as package_settings


def _run_alone() -> ModuleType:
    """Return ``glm_model/options``, imported under another name and without ``glm_model/__init__.py``."""
    package = importlib.util.find_spec("glm_model")  # locates the package without importing it
    assert package is not None
    assert package.submodule_search_locations
    folder = Path(package.submodule_search_locations[0]) / "options"
    name = f"{__package__}.glm_model_options"
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # the relative imports inside the folder need this entry
    spec.loader.exec_module(module)
    return module


if not TYPE_CHECKING:
    package_settings = _run_alone()
