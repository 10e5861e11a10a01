"""Begins ``python -m glm_model.fill`` and its like, before ``glm_model`` imports torch and transformers."""

from __future__ import annotations

import os
import sys

from . import signals

TYPE_CHECKING = False  # no slow import before signals are answered
if TYPE_CHECKING:
    from contextlib import AbstractContextManager

PROGRAMS = {
    "glm-fill": "glm_model.fill",
    "glm-plan": "glm_model.plan",
    "glm-convert": "glm_model.conversion",
    "glm-evaluate": "glm_model.evaluation",
}
"""The commands that a wheel installs and that import ``glm_model`` first, and the module of each."""


def begin() -> AbstractContextManager[None]:
    """Begin the program that is being started, and return the context for the imports of ``glm_model``.

    If ``glm_model`` is imported as a library, nothing begins, and only errors of libraries beside torch are explained.

    Raises:
        SystemExit: the program's Python is too old; with a sentence.
        ImportError: the library's Python is too old.
    """
    program = program_being_started()
    if program is not None:
        signals.begin(ends_well=program == "glm_model.fill" and _is_typed(sys.argv[1:]))
    from . import imports

    if program is not None:
        imports.keep_checkout_clean()
    sentence = imports.old_python()
    if sentence is not None:
        raise ImportError(sentence) if program is None else SystemExit(sentence)
    return imports.companions_explained() if program is None else imports.explained()


def program_being_started() -> str | None:
    """Return the module that ``python -m`` or a command of the wheel starts, None if it is none of this project's.

    While ``python -m`` imports the packages of its module, ``sys.argv`` has -m in the place of the module's name.
    """
    if sys.argv[:1] == ["-m"]:
        command = getattr(sys, "orig_argv", ["glm_model"])  # Python 3.8 and 3.9 do not tell
        module = command[-len(sys.argv) :][0]
        if module.startswith("-m"):
            module = module[2:]
        return module if module.partition(".")[0] in ("glm_model", "demo_recipe") else None
    return PROGRAMS.get(os.path.basename("".join(sys.argv[:1])))  # noqa: PTH119 - pathlib is slow to import


def _is_typed(arguments: list[str]) -> bool:
    """Return whether ``fill`` is going to read texts from a keyboard, before its options can be read."""
    given = any("MASK]" in argument or argument.startswith("--f") for argument in arguments)
    return not given and sys.stdin is not None and sys.stdin.isatty()
