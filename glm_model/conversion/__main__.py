"""``python -m glm_model.conversion COMMAND``: checkpoints from one form into another."""

import argparse
import sys
from pathlib import Path

from ..kernels.packing import BITS
from .convert import sat_to_huggingface, to_sat
from .files import in_words
from .quantize import quantize_checkpoint

_SAT = """Convert GLM-130B's own archive, as SwissArmyTransformer writes it ('latest' and
<step>/mp_rank_XX_model_states.pt, of any number of tensor-parallel ranks), into a folder in the Hugging Face layout;
or, with --tensor-parallel N, such a folder or another archive into an archive of N ranks. DST appears when it is whole;
until then it grows as DST.partial. Killed, the same command goes on where it was if it makes a Hugging Face folder, and
starts over if it makes an archive."""


_INTERRUPTED = 130  # as shells report Ctrl-C


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, OSError) as error:  # what is wrong with the input or the disk, in a sentence
        print(f"error: {_sentence(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped: the same command {options.again}", file=sys.stderr)
        return _INTERRUPTED
    return 0


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m glm_model.conversion", description="Convert checkpoints.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_quantize(commands)
    _add_sat(commands)
    return parser


def _add_quantize(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    quantize = commands.add_parser(
        "quantize", help="make an INT8 or INT4 checkpoint", description="Write a float checkpoint as INT8 or INT4."
    )
    _add_folders(quantize, "folder with a float checkpoint")
    quantize.add_argument("--bits", type=int, choices=BITS, required=True)
    quantize.add_argument("--embeddings", action="store_true", help="the embedding and the head too")
    quantize.set_defaults(run=_quantize, again="starts over")


def _add_sat(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    sat = commands.add_parser("sat", help="read or write GLM-130B's own archives", description=_SAT)
    _add_folders(sat, "folder with 'latest'; with --tensor-parallel also a Hugging Face folder")
    sat.add_argument("--bits", type=int, choices=BITS, default=0, help="pack the linear layers of a float checkpoint")
    sat.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="a config.json that tells what tensors cannot (heads, ids of special tokens), if no model_config.json "
        "beside 'latest' does",
    )
    direction = sat.add_mutually_exclusive_group()
    direction.add_argument("--shard-size", default="5GB", metavar="SIZE", help="largest file of weights (default: 5GB)")
    direction.add_argument("--tensor-parallel", type=int, metavar="N", help="write an archive of N ranks")
    sat.set_defaults(run=_sat, again="goes on where it was, or starts over if it makes an archive")


def _add_folders(command: argparse.ArgumentParser, source: str) -> None:
    command.add_argument("source", type=Path, metavar="SRC", help=source)
    command.add_argument("target", type=Path, metavar="DST", help="folder to make; must not be there yet")


def _quantize(options: argparse.Namespace) -> None:
    quantize_checkpoint(options.source, options.target, options.bits, options.embeddings, progress=True)
    print(f"{options.target}: INT{options.bits}, {_size(options.target)} from {_size(options.source)}")


def _sat(options: argparse.Namespace) -> None:
    given = {"bits": options.bits, "config": options.config, "progress": True}
    if options.tensor_parallel is None:
        made = sat_to_huggingface(options.source, options.target, shard_size=options.shard_size, **given)
    else:
        made = to_sat(options.source, options.target, options.tensor_parallel, **given)
    print(f"{options.target}: {made}, {_size(options.target)} from {_size(options.source)}")


def _size(folder: Path) -> str:
    return in_words(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))


if __name__ == "__main__":
    sys.exit(main())
