"""Runs ``python -m glm_model.fill``: fills texts from the command line, a file, a pipe or a keyboard.

Results go to standard output, one for each text; all else, such as why a text could not be filled, to standard error.
"""

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..command_line import FAILED, SUCCEEDED, run
from ..process import signals
from .arguments import parse
from .filler import NAME, Filler, complain
from .output import failure_as_json


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program. Return the exit status; see :mod:`glm_model.command_line`."""
    return run(NAME, lambda: _fill(argv))


def _fill(argv: Sequence[str] | None) -> int:
    arguments = parse(argv)
    if arguments.text is not None:
        return _fill_all(Filler(arguments), [arguments.text], None, arguments.json)
    if arguments.file is None and sys.stdin.isatty():
        signals.begin(ends_well=True)
        signals.answer(sigint=signals.Answer.LEAVE)  # while the model is loaded
        filler = Filler(arguments)
        signals.answer(sigint=signals.Answer.RAISE)
        return _fill_typed(filler)
    with _opened(arguments.file) as lines:  # before loading the model, which may take minutes
        return _fill_all(Filler(arguments, by_line=True), lines, arguments.file or "line", arguments.json)


@contextlib.contextmanager
def _opened(file: str | None) -> Iterator[Iterable[str]]:
    """Give the lines of a file or of standard input.

    Raises:
        OSError: the file cannot be read; the message names it.
        ValueError: the file is not UTF-8.
    """
    if file in (None, "-"):
        yield sys.stdin
        return
    try:
        lines = Path(str(file)).open(encoding="utf-8-sig")  # noqa: SIM115 - closed below
    except OSError as error:
        raise OSError(f"cannot read {file}: {error.strerror}") from None
    with lines:  # An OSError in the caller's block, such as a full disk, passes unchanged: it is not about this file.
        try:
            yield lines
        except UnicodeDecodeError:
            raise ValueError(f"{file} is not text in UTF-8") from None


def _fill_all(filler: Filler, lines: Iterable[str], source: str | None, json: bool) -> int:
    """Fill each line and return the exit status: failed if one line could not be filled.

    A line that cannot be filled gives an empty line, so that line numbers of input and output agree.

    Args:
        filler: fills one text.
        lines: the texts.
        source: name of the file in messages; None for a single text from the command line.
        json: print a JSON object for each line, also for one that cannot be filled.

    Raises:
        ValueError: there is no line.
    """
    status, number = SUCCEEDED, 0
    for number, line in enumerate(lines, start=1):
        text = line.rstrip("\r\n")
        try:
            shown = filler.fill(text) if text.strip() or source is None or json else ""
        except ValueError as error:
            status = FAILED
            complain(str(error) if source is None else f"{source}:{number}: {error}")
            shown = failure_as_json(text, str(error)) if json else ""
        if shown or source is not None:
            print(shown, flush=True)
    if not number:
        raise ValueError("there is no text: give one in quotes, in a --file or through a pipe")
    return status


def _fill_typed(filler: Filler) -> int:
    """Fill typed texts until Ctrl-C or Ctrl-D at the prompt; Ctrl-C while a text is filled stops that text only."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - makes arrow keys work in `input`
    complain("type a text with [MASK] in it; Ctrl-C or Ctrl-D leaves")
    while (text := _typed()) is not None:
        try:
            if text.strip():
                print(filler.fill(text), flush=True)
        except ValueError as error:
            complain(str(error))
        except KeyboardInterrupt:
            complain("stopped")
    return SUCCEEDED


def _typed() -> str | None:
    """Return a line from the keyboard; None after Ctrl-C or Ctrl-D."""
    prompt = "> "
    try:
        if sys.stdout.isatty():
            return input(prompt)
        print(prompt, end="", file=sys.stderr, flush=True)
        return input()
    except (EOFError, KeyboardInterrupt):
        print(file=sys.stderr)
        return None


if __name__ == "__main__":
    sys.exit(main())
