"""The options of ``python -m glm_model.fill``: those of GLM-130B's ``generate.py`` and where the model is."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, get_args

from ..blank_filling import MAX_BLANKS, FillOptions
from ..kernels.dispatch import Precision
from ..loading import DEMO_MODEL, DEVICE_MAPS, DTYPES

_STRATEGIES = ("sampling", "greedy", "beam-search")
_DEFAULTS = FillOptions()
_LOADING = (
    "quantize", "quantize_head", "precision", "prefix", "device", "dtype", "cache_dtype", "device_map",
    "tensor_parallel", "pipeline_parallel",
)  # fmt: skip


@dataclass(frozen=True)
class Arguments:
    """What to fill, how, and how to show it.

    Args:
        text: one text; None to read ``file``, or where that is None, too, standard input.
        file: one text per line; "-" is standard input.
        color: "auto", "always" or "never".
        loading: what ``load`` is told besides the folder.
    """

    text: str | None
    file: str | None
    options: FillOptions
    all_beams: bool
    json: bool
    color: str
    model: str
    loading: dict[str, Any]


def parse(argv: Sequence[str] | None = None) -> Arguments:
    """Read a command line; prints and exits (0 for --help, 2 for what makes no sense)."""
    parser = _parser()
    given = parser.parse_args(argv)
    if given.text is not None and given.file is not None:
        parser.error("give a TEXT or --file, not both")
    try:
        options = _fill_options(given)
    except ValueError as error:
        parser.error(str(error))
    return Arguments(
        text=given.text,
        file=given.file,
        options=options,
        all_beams=given.all_beams,
        json=given.json,
        color=given.color,
        model=given.model,
        loading={name: getattr(given, name) for name in _LOADING},
    )


def _fill_options(given: argparse.Namespace) -> FillOptions:
    """Asking for beams asks for a beam search. Raises ValueError for a value or a combination that makes no sense."""
    asks_for_beams = given.num_beams is not None or given.all_beams or given.draw_beams
    strategy = given.strategy or ("beam-search" if asks_for_beams else "sampling")
    if asks_for_beams and strategy != "beam-search":
        raise ValueError(f"--num-beams, --all-beams and --draw-beams go with beam search, not with {strategy}")
    return FillOptions(
        strategy="beam_search" if strategy == "beam-search" else "sampling",
        max_length=given.max_length,
        temperature=0.0 if strategy == "greedy" else given.temperature,
        top_k=given.top_k,
        top_p=given.top_p,
        num_beams=_DEFAULTS.num_beams if given.num_beams is None else given.num_beams,
        length_penalty=given.length_penalty,
        no_repeat_ngram_size=given.no_repeat_ngram_size,
        min_gen_length=given.min_gen_length,
        deterministic=not given.draw_beams,
        seed=given.seed,
        every_kind=not given.one_kind,
    )


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, where argparse prints its usage above."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"fill: {message} (see --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m glm_model.fill",
        description="Fill the blanks of a text from both sides. [MASK] is a short blank, [sMASK] (GLM-130B only) a "
        f"sentence, [gMASK] a continuation, which is added to a text without any; at most {MAX_BLANKS} are filled, "
        "from left to right. Without TEXT and --file it reads standard input, a text per line.",
        epilog="Exit status: 0, 1 if a text could not be filled, 2 for wrong options, 130 after Ctrl-C.",
        allow_abbrev=False,
    )
    parser.add_argument("text", nargs="?", metavar="TEXT", help='such as "The capital of [MASK] is Paris."')
    parser.add_argument("--file", metavar="FILE", help="one text per line; - for standard input")
    _add_answer_options(parser)
    _add_beam_options(parser)
    _add_output_options(parser)
    _add_model_options(parser)
    return parser


def _add_answer_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the answers")
    group.add_argument(
        "--strategy", choices=_STRATEGIES, help="default: sampling, or beam-search where beams are asked for"
    )
    _number(group, "--temperature", "T", _DEFAULTS.temperature, "of sampling; 0 is greedy")
    _number(group, "--top-k", "N", _DEFAULTS.top_k, "sampling: keep this many of the likeliest tokens; 0 keeps all")
    _number(group, "--top-p", "P", _DEFAULTS.top_p, "sampling: keep the likeliest tokens up to this sum; 0 keeps all")
    _number(group, "--max-length", "N", _DEFAULTS.max_length, "tokens of the whole text, blanks filled")
    group.add_argument("--seed", type=int, metavar="N", help="makes a result reproducible; each text starts from it")
    group.add_argument(
        "--one-kind",
        action="store_true",
        help="as the original, fill only the first kind present of [MASK], [sMASK], [gMASK]; else one after the other",
    )


def _add_beam_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("beam search")
    group.add_argument("--num-beams", type=int, metavar="N", help=f"beams to follow (default: {_DEFAULTS.num_beams})")
    _number(
        group, "--length-penalty", "X", _DEFAULTS.length_penalty, "above 0 favours long answers, below 0 short ones"
    )
    _number(group, "--min-gen-length", "N", _DEFAULTS.min_gen_length, "an answer has at least so many tokens")
    _number(
        group, "--no-repeat-ngram-size", "N", _DEFAULTS.no_repeat_ngram_size,
        "never write so many tokens in a row twice; 0 is off",
    )  # fmt: skip
    group.add_argument(
        "--draw-beams", action="store_true", help="as the original, draw the beams to follow; else the best go on"
    )
    group.add_argument("--all-beams", action="store_true", help="print every beam, best first, after its score")


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the output")
    group.add_argument("--json", action="store_true", help="a JSON object per text: segments, every answer, scores")
    group.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="of the filled parts; without it a terminal gets [brackets], a pipe the text alone (default: auto)",
    )


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the model")
    group.add_argument(
        "--model", default=str(DEMO_MODEL), metavar="FOLDER", help="folder of the model (default: the demo model)"
    )
    group.add_argument("--quantize", choices=("int8", "int4"), help="shrink the weights while loading")
    group.add_argument("--quantize-head", action="store_true", help="shrink the embedding and the head, too")
    group.add_argument(
        "--precision",
        choices=get_args(Precision),
        default="exact",
        help="of shrunk weights on a CPU; fast also rounds what they are multiplied with to 8 bits (default: exact)",
    )
    group.add_argument("--prefix", metavar="PATH", help="file or folder of a P-Tuning prefix to put on the model")
    group.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps ...")
    group.add_argument("--dtype", choices=("auto", *DTYPES), default="auto", help="numbers to compute with")
    group.add_argument("--cache-dtype", choices=DTYPES, help="numbers to remember the text in (default: as --dtype)")
    group.add_argument("--device-map", choices=DEVICE_MAPS, help="spread the model over the GPUs, then CPU and disk")
    _number(group, "--tensor-parallel", "N", 1, "processes of torchrun that share every layer")
    _number(group, "--pipeline-parallel", "N", 1, "stages of processes of torchrun that hold some of the layers each")


def _number(group: "argparse._ArgumentGroup", flag: str, metavar: str, default: int | float, explained: str) -> None:
    """A number with a default of the same type; `FillOptions` checks its range."""
    group.add_argument(
        flag, type=type(default), default=default, metavar=metavar, help=f"{explained} (default: {default})"
    )
