"""Runs ``python -m glm_model.conversion COMMAND``: converts checkpoints from one format into another."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..command_line import INTERRUPTED, SUCCEEDED, Parser, complain, run
from ..options import (
    QUANTIZATION_BITS,
    LoadOptions,
    Setting,
    Whole,
    add_hidden_alias,
    add_setting,
    add_settings,
    with_sentence,
)
from ..text.sanitize import harmless
from .convert import sat_to_huggingface, to_sat
from .files import in_words
from .huggingface_writer import require_shard_size
from .quantize import quantize_checkpoint

_NAME = "conversion"
_SAT = """Convert GLM-130B's own archive, as SwissArmyTransformer writes it ('latest' and
<step>/mp_rank_XX_model_states.pt, of any number of tensor-parallel ranks), into a folder in the Hugging Face layout;
or, with --tensor-parallel N, such a folder or another archive into an archive of N ranks. DST appears when it is whole;
until then it grows as DST.partial. Killed, the same command goes on where it was if it makes a Hugging Face folder, and
starts over if it makes an archive."""

_RANKS = Setting("tensor_parallel", None, Whole(1), "write an archive of N ranks", metavar="N")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Return the exit status; see :mod:`glm_model.command_line`."""
    return run(_NAME, lambda: _convert(arguments))


def _convert(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except KeyboardInterrupt:
        complain(_NAME, f"stopped: the same command {options.again}")
        return INTERRUPTED
    return SUCCEEDED


def _parser() -> Parser:
    parser = Parser(prog="python -m glm_model.conversion", description="Convert checkpoints.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_quantize(commands)
    _add_sat(commands)
    return parser


def _add_quantize(commands: "argparse._SubParsersAction[Parser]") -> None:
    quantize = commands.add_parser(
        "quantize",
        help="make an INT8 or INT4 checkpoint",
        description="Write a float checkpoint as INT8 or INT4.",
    )
    _add_folders(quantize, "folder with a float checkpoint")
    _add_quantization(quantize.add_mutually_exclusive_group(required=True))
    _add_non_finite(quantize)
    add_settings(quantize, LoadOptions, ["quantize_head"])
    add_hidden_alias(quantize, "--embeddings", "quantize_head", action="store_true")
    quantize.set_defaults(run=_quantize, again="starts over")


def _add_sat(commands: "argparse._SubParsersAction[Parser]") -> None:
    sat = commands.add_parser("sat", help="read or write GLM-130B's own archives", description=_SAT)
    _add_folders(sat, "folder with 'latest'; with --tensor-parallel also a Hugging Face folder")
    _add_quantization(sat.add_mutually_exclusive_group())
    _add_non_finite(sat)
    sat.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="a config.json that tells what tensors cannot (heads, ids of special tokens), if no model_config.json "
        "beside 'latest' does",
    )
    direction = sat.add_mutually_exclusive_group()
    direction.add_argument(
        "--shard-size",
        type=with_sentence(_shard_size),
        default="5GB",
        metavar="SIZE",
        help="largest file of weights (default: 5GB)",
    )
    add_setting(direction, _RANKS)
    sat.set_defaults(run=_sat, again="goes on where it was, or starts over if it makes an archive")


def _add_folders(command: Parser, source: str) -> None:
    command.add_argument("source", type=Path, metavar="SRC", help=source)
    command.add_argument("target", type=Path, metavar="DST", help="folder to make; must not be there yet")


def _add_quantization(group: "argparse._MutuallyExclusiveGroup") -> None:
    """Add ``--quantize``, and its name in earlier releases, ``--bits``."""
    add_settings(group, LoadOptions, ["quantize"])
    add_hidden_alias(group, "--bits", "quantize", type=with_sentence(_name_of_bits), metavar="BITS")


def _add_non_finite(command: Parser) -> None:
    command.add_argument(
        "--allow-non-finite",
        action="store_true",
        help="convert values that are NaN or infinite, too, instead of refusing them; such a model will not load",
    )


def _name_of_bits(text: str) -> str:
    names = {str(bits): name for name, bits in QUANTIZATION_BITS.items()}
    if text not in names:
        raise ValueError(f"{text!r} is not one of {', '.join(names)}")
    return names[text]


def _shard_size(text: str) -> str:
    require_shard_size(text)
    return text


def _quantize(options: argparse.Namespace) -> None:
    bits = QUANTIZATION_BITS[options.quantize]
    quantize_checkpoint(
        options.source,
        options.target,
        bits,
        options.quantize_head,
        progress=True,
        allow_non_finite=options.allow_non_finite,
    )
    _report(options, f"INT{bits}")


def _sat(options: argparse.Namespace) -> None:
    bits = QUANTIZATION_BITS.get(options.quantize, 0)
    if options.tensor_parallel is None:
        made = sat_to_huggingface(
            options.source,
            options.target,
            bits=bits,
            shard_size=options.shard_size,
            config=options.config,
            allow_non_finite=options.allow_non_finite,
            progress=True,
        )
    else:
        made = to_sat(
            options.source,
            options.target,
            options.tensor_parallel,
            bits=bits,
            config=options.config,
            allow_non_finite=options.allow_non_finite,
            progress=True,
        )
    _report(options, made)


def _report(options: argparse.Namespace, made: str) -> None:
    sizes = f"{_size(options.target)} from {_size(options.source)}"
    print(harmless(f"{options.target}: {made}, {sizes}"))


def _size(folder: Path) -> str:
    return in_words(sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()))


if __name__ == "__main__":
    sys.exit(main())
