"""lm-eval's command with the model ``glm`` registered: ``python -m glm_model.evaluation --model glm ...``."""

import sys
from importlib.util import find_spec

from ..errors import GLMError


def main() -> None:
    """Run the command on ``sys.argv``, whose words are lm-eval's own."""
    if find_spec("lm_eval") is None:
        sys.exit("lm-eval is not installed: pip install 'lm-eval>=0.4.13'")
    from lm_eval.__main__ import cli_evaluate

    from . import harness  # noqa: F401 - registers the model

    try:
        cli_evaluate()
    except GLMError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
