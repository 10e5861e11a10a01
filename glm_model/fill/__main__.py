"""``python -m glm_model.fill``: fills texts from the command line, a file, a pipe or a keyboard.

Results go to standard output, one for each text; all else, such as why a text could not be filled, to standard error.
"""

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..command_line import FAILED, SUCCEEDED, run
from .arguments import parse
from .filler import NAME, Filler, complain
from .output import failure_as_json


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    return run(NAME, lambda: _fill(argv))


def _fill(argv: Sequence[str] | None) -> int:
    arguments = parse(argv)
    if arguments.text is not None:
        return _fill_all(Filler(arguments), [arguments.text], None, arguments.json)
    if arguments.file is None and sys.stdin.isatty():
        return _converse(Filler(arguments))
    with _opened(arguments.file) as lines:  # before the model, which may take minutes
        return _fill_all(Filler(arguments, by_line=True), lines, arguments.file or "line", arguments.json)


@contextlib.contextmanager
def _opened(file: str | None) -> Iterator[Iterable[str]]:
    """The lines of a file or of standard input. Raises OSError or ValueError with a sentence."""
    if file in (None, "-"):
        yield sys.stdin
        return
    try:
        lines = Path(str(file)).open(encoding="utf-8-sig")  # noqa: SIM115 - closed below
    except OSError as error:
        raise OSError(f"cannot read {file}: {error.strerror}") from None
    with lines:  # an OSError of whoever uses the lines, such as a full disk, is not the file's
        try:
            yield lines
        except UnicodeDecodeError:
            raise ValueError(f"{file} is not text in UTF-8") from None


def _fill_all(filler: Filler, lines: Iterable[str], source: str | None, json: bool) -> int:
    """Fill a text per line; a line that cannot be filled leaves an empty one, so that the others keep their numbers.

    Args:
        source: what to call the lines; None for a single text that is no line of anything.
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


def _converse(filler: Filler) -> int:
    """Fill what is typed until Ctrl-C or Ctrl-D; while the model works Ctrl-C stops it alone."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives `input` its arrow keys
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
    """A line from the keyboard; None when there will be no more."""
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
