"""Reads the command line of ``python -m glm_model.fill``: options of GLM-130B's ``generate.py`` and of loading."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields

from ..blank_filling import MAX_BLANKS, FillOptions
from ..command_line import EXIT_STATUS, Parser
from ..loading import DEMO_MODEL
from ..options import LoadOptions, add_settings

_STRATEGIES = ("sampling", "greedy", "beam-search")
_ANSWER_SETTINGS = ("temperature", "top_k", "top_p", "max_length", "seed", "every_kind")
_BEAM_SETTINGS = ("num_beams", "length_penalty", "min_gen_length", "no_repeat_ngram_size", "deterministic")


@dataclass(frozen=True)
class Arguments:
    """The texts to fill, the options of filling, and the format of the output.

    Args:
        text: one text; None to read ``file``, or standard input if ``file`` is None too.
        file: path of a file with one text per line; "-" is standard input.
        options: how blanks are filled.
        all_beams: print every beam instead of the best one.
        json: print a JSON object for each text.
        color: "auto", "always" or "never".
        model: the folder of the model.
        loading: how the model is loaded.
    """

    text: str | None
    file: str | None
    options: FillOptions
    all_beams: bool
    json: bool
    color: str
    model: str
    loading: LoadOptions


def parse(argv: Sequence[str] | None = None) -> Arguments:
    """Return the arguments of a command line; None is ``sys.argv``.

    Raises:
        SystemExit: 0 after printing the help, 2 after printing what is wrong with the command line.
    """
    parser = _parser()
    given = parser.parse_args(argv)
    if given.text is not None and given.file is not None:
        parser.error("give a TEXT or --file, not both")
    try:
        options, loading = _fill_options(given), _load_options(given)
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
        loading=loading,
    )


def _fill_options(given: argparse.Namespace) -> FillOptions:
    """Return the options of filling. An option of beam search selects that strategy.

    Raises:
        ValueError: a value is not allowed, or an option of beam search is given with another strategy.
    """
    has_beam_options = given.num_beams is not None or given.all_beams or not given.deterministic
    strategy = given.strategy or ("beam-search" if has_beam_options else "sampling")
    if has_beam_options and strategy != "beam-search":
        raise ValueError(f"--num-beams, --all-beams and --draw-beams go with beam search, not with {strategy}")
    settings = {name: getattr(given, name) for name in (*_ANSWER_SETTINGS, *_BEAM_SETTINGS)}
    if given.num_beams is None:
        del settings["num_beams"]
    if strategy == "greedy":
        settings["temperature"] = 0.0
    return FillOptions("beam_search" if strategy == "beam-search" else "sampling", **settings)


def _load_options(given: argparse.Namespace) -> LoadOptions:
    return LoadOptions(**{each.name: getattr(given, each.name) for each in fields(LoadOptions) if each.name in given})


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m glm_model.fill",
        description="Fill the blanks of a text from both sides. [MASK] is a short blank, [sMASK] (GLM-130B only) a "
        f"sentence, [gMASK] a continuation, which is added to a text without any; at most {MAX_BLANKS} are filled, "
        "from left to right. Without TEXT and --file it reads standard input, a text per line.",
        epilog=f"{EXIT_STATUS} A text that cannot be filled is failed work, too; the others are filled.",
    )
    parser.add_argument("text", nargs="?", metavar="TEXT", help='such as "The capital of [MASK] is Paris."')
    parser.add_argument("--file", metavar="FILE", help="one text per line; - for standard input")
    answers = parser.add_argument_group("the answers")
    answers.add_argument(
        "--strategy", choices=_STRATEGIES, help="default: sampling, or beam-search where beams are asked for"
    )
    add_settings(answers, FillOptions, _ANSWER_SETTINGS, every_kind=True)
    _add_beam_options(parser.add_argument_group("beam search"))
    _add_output_options(parser.add_argument_group("the output"))
    model = parser.add_argument_group("the model")
    model.add_argument(
        "--model", default=str(DEMO_MODEL), metavar="FOLDER", help="folder of the model (default: the demo model)"
    )
    add_settings(model, LoadOptions)
    return parser


def _add_beam_options(group: "argparse._ArgumentGroup") -> None:
    add_settings(group, FillOptions, _BEAM_SETTINGS)
    group.set_defaults(num_beams=None)  # tells a --num-beams that was given from the default
    group.add_argument("--all-beams", action="store_true", help="print every beam, best first, after its score")


def _add_output_options(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--json", action="store_true", help="a JSON object per text: segments, every answer, scores")
    group.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="of the filled parts; without it a terminal gets [brackets], a pipe the text alone (default: auto)",
    )
