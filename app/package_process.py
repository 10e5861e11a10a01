"""Import ``glm_model/process`` without the rest of the model package, and of it what answers signals.

``import glm_model`` takes seconds, and what a program needs before that is in this folder. It keeps its usual name.
Once this module has been imported, ``from glm_model.process.MODULE import ...`` does not import ``glm_model``, though
``from glm_model.process import MODULE`` does. The model package finds the same modules, with the same state.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys

__all__ = ["signals"]

TYPE_CHECKING = False  # no slow import before signals are answered
if TYPE_CHECKING:
    from glm_model.process import signals


def _import_alone(name: str) -> None:
    """Put ``glm_model.NAME`` into ``sys.modules`` without running ``glm_model/__init__.py``."""
    package = importlib.util.find_spec("glm_model")  # locates the package without importing it
    assert package is not None
    assert package.submodule_search_locations
    folder = f"{package.submodule_search_locations[0]}/{name}"
    full_name = f"glm_model.{name}"
    spec = importlib.util.spec_from_file_location(
        full_name, f"{folder}/__init__.py", submodule_search_locations=[folder]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[full_name] = module
    spec.loader.exec_module(module)


if not TYPE_CHECKING:
    if "glm_model.process" not in sys.modules:
        _import_alone("process")
    signals = importlib.import_module("glm_model.process.signals")
