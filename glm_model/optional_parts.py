"""Parts of the package that it can do without: each is imported where its file is there, and registers itself.

Nothing else imports such a part, so a copy of the package without its file lacks that capability and works.
"""

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec


def import_present(package: str, names: Iterable[str]) -> None:
    """Import the modules of these names in a package, in this order; those whose file is missing are left out."""
    for name in names:
        if find_spec(f"{package}.{name}") is not None:
            import_module(f"{package}.{name}")
