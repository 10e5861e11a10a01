"""Parts of the package that it can do without: each is imported where its file is there, and registers itself.

Nothing else imports such a part, so a copy of the package without its file lacks that capability and works.
"""

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec


def import_present(package: str, names: Iterable[str]) -> None:
    """Import the modules of these names in a package, in this order; those whose file is missing are left out."""
    for name in names:
        if is_present(f"{package}.{name}"):
            import_module(f"{package}.{name}")


def optional_class(module: str, name: str) -> type:
    """Return a class of a module; where the module's file is missing, an empty class to inherit from in its place."""
    if is_present(module):
        found: type = getattr(import_module(module), name)
        return found
    return type(f"No{name}", (), {})


def is_present(module: str) -> bool:
    """Return whether the file of a module, and those of the packages around it, are there."""
    parents = module.split(".")
    names = [".".join(parents[:length]) for length in range(1, len(parents) + 1)]
    return all(find_spec(name) is not None for name in names)
