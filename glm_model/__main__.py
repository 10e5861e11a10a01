"""``python -m glm_model``: the programs, a line each."""

import sys
from collections.abc import Sequence

from . import __version__
from .command_line import SUCCEEDED, Parser, run

PROGRAMS = [
    ("glm-chat", "python cli_demo.py", "chat in the terminal, in a pipe, or for one message"),
    ("glm-web", "python web_demo.py", "chat and fill blanks in the browser"),
    ("glm-fill", "python -m glm_model.fill", "fill the blanks of a text from both sides"),
    ("glm-plan", "python -m glm_model.plan", "tell whether a model fits the GPUs at hand, and what to change if not"),
    ("glm-convert", "python -m glm_model.conversion", "quantize a checkpoint, or convert GLM-130B's own archives"),
    ("glm-evaluate", "python -m glm_model.evaluation", "score a model on the tasks of lm-eval"),
]
"""Of each program its name where the package is installed, the command in a checkout, and what it does."""


def main(argv: Sequence[str] | None = None) -> int:
    """List the programs; returns the exit status."""
    return run("glm_model", lambda: _list(argv))


def _list(argv: Sequence[str] | None) -> int:
    parser = Parser(
        prog="python -m glm_model",
        description="List the programs; each explains itself with --help.",
    )
    parser.parse_args(argv)
    print(f"glm_model {__version__}. Installed by pip, or in a checkout:\n")
    for name, command, purpose in PROGRAMS:
        print(f"  {name:13} {command:31} {purpose}")
    return SUCCEEDED


if __name__ == "__main__":
    sys.exit(main())
