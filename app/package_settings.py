"""The settings of the model package, without the rest of it.

Importing anything of ``glm_model`` imports all of it, torch and transformers included, which takes seconds. The folder
``glm_model/options`` needs none of that, so its files are run here as a package of another name, and ``--help`` comes
at once. Its classes are therefore not those of ``glm_model.options``, though they have the same fields: what is handed
to the model package is made of ``glm_model.options`` itself (``Options.loading``, ``Options.sampling``).
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
    package = importlib.util.find_spec("glm_model")  # finds it and does not import it
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
    sys.modules[name] = module  # where the files of the folder look for each other
    spec.loader.exec_module(module)
    return module


if not TYPE_CHECKING:
    package_settings = _run_alone()
