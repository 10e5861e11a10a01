"""Run the recipe from the command line.

``python -m demo_recipe train --out models/demo`` makes the demo model.
``python -m demo_recipe evaluate models/demo`` evaluates it.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from glm_model.command_line import SUCCEEDED, Parser, run
from glm_model.options import LoadOptions, add_settings

from . import evaluation, recipe


def main(arguments: Sequence[str] | None = None) -> int:
    """Train or evaluate, as the command line says, and return the exit status."""
    return run("demo_recipe", lambda: _train_or_evaluate(arguments))


def _train_or_evaluate(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.command == "train":
        start = time.monotonic()
        recipe.run(recipe.Recipe(), options.out, options.run)
        print(f"wrote {options.out} after {(time.monotonic() - start) / 60:.1f} minutes")
    else:
        chosen = {name: getattr(options, name) for name in ("seed", "sampled", "quantize", "failures")}
        evaluation.evaluate(options.model, options.count, **chosen)
    return SUCCEEDED


def _parser() -> Parser:
    parser = Parser(prog="python -m demo_recipe", description="Make and judge the demo model.")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's choice)")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="make the corpus, train, write the model")
    train.add_argument("--out", type=Path, default=Path("models/demo"), help="folder of the model")
    train.add_argument(
        "--run", type=Path, default=Path("runs/demo"), help="checkpoints; a killed run goes on from them"
    )
    evaluate = commands.add_parser("evaluate", help="print the table of held-out questions and one line of JSON")
    evaluate.add_argument("model", type=Path, nargs="?", default=Path("models/demo"))
    evaluate.add_argument("--count", type=int, default=48, help="questions a category and language")
    evaluate.add_argument("--seed", type=int, default=evaluation.SEED, help="of the questions (default: %(default)s)")
    add_settings(evaluate, LoadOptions, ["quantize"])
    evaluate.add_argument("--sampled", action="store_true", help="the chat's default sampling instead of greedy")
    evaluate.add_argument("--failures", action="store_true", help="print every wrong answer")
    return parser


if __name__ == "__main__":
    sys.exit(main())
