"""Runs lm-eval's command with the model ``glm`` registered: ``python -m glm_model.evaluation --model glm ...``."""

import sys
from importlib.util import find_spec

from ..command_line import SUCCEEDED, run


def main() -> int:
    """Run lm-eval's command on ``sys.argv``. Return the exit status; see :mod:`glm_model.command_line`."""
    return run("evaluation", _evaluate)


def _evaluate() -> int:
    if find_spec("lm_eval") is None:
        raise ValueError("lm-eval is not installed: pip install 'lm-eval>=0.4.13'")
    from lm_eval.__main__ import cli_evaluate

    from . import harness  # noqa: F401 - registers the model

    cli_evaluate()
    return SUCCEEDED


if __name__ == "__main__":
    sys.exit(main())
