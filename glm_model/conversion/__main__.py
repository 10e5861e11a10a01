"""``python -m glm_model.conversion COMMAND``: checkpoints from one form into another."""

import argparse
import sys
from pathlib import Path

from ..quantization.packing import BITS
from .quantize import quantize_checkpoint


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError) as error:  # what is wrong with the input or the disk, in a sentence
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m glm_model.conversion", description="Convert checkpoints.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    quantize = commands.add_parser(
        "quantize", help="make an INT8 or INT4 checkpoint", description="Write a float checkpoint as INT8 or INT4."
    )
    quantize.add_argument("source", type=Path, metavar="SRC", help="folder with a float checkpoint")
    quantize.add_argument("target", type=Path, metavar="DST", help="folder to make; must not be there yet")
    quantize.add_argument("--bits", type=int, choices=BITS, required=True)
    quantize.add_argument("--embeddings", action="store_true", help="the embedding and the head too")
    quantize.set_defaults(run=_quantize)
    return parser


def _quantize(options: argparse.Namespace) -> None:
    quantize_checkpoint(options.source, options.target, options.bits, options.embeddings, progress=True)
    print(f"{options.target}: INT{options.bits}, {_gigabytes(options.target)} from {_gigabytes(options.source)}")


def _gigabytes(folder: Path) -> str:
    return f"{sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) / 1e9:.2f} GB"


if __name__ == "__main__":
    sys.exit(main())
