"""Run the terminal front-end: chat in a terminal; in a pipe, or with --message, print one answer and exit.

In a pipe the whole standard input is one message. Only the answer goes to standard output, while it is generated;
everything else goes to standard error. Exit code: 0, 1 if there was no answer, 130 after Ctrl-C; a chat ends with 0.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..names import PACKAGE
from ..options import Options, answer_settings
from ..package_process import signals
from ..serving.conversation import Message
from ..startup import collector_paused
from .files import log_file, state_folder
from .quiet import quiet_keyboard
from .wording import Words, speak

if TYPE_CHECKING:
    from ..serving.engine import Engine

INTERRUPTED = 130  # the exit code that shells use for Ctrl-C


def start(options: Options) -> int:
    """Load the model, run, and return the exit code. The slow imports happen here, while a spinner is shown."""
    prepare()
    words = speak(options.language, os.environ)
    try:
        engine = _load(options, words)
    except KeyboardInterrupt:
        return INTERRUPTED
    except ModuleNotFoundError:
        raise  # a fault of the installation, which `programs` explains
    except Exception as error:
        logging.getLogger(__name__).exception("the model cannot be loaded")
        _complain(words.cannot_load.format(reason=_reason(error)))
        return 1
    with engine:
        return run(engine, options)


def run(engine: Engine, options: Options) -> int:
    """Run on a loaded engine and return the exit code."""
    words = speak(options.language, os.environ)
    try:
        if _is_interactive(options):
            return _talk(engine, options, words)
        signals.answer(sigint=signals.Answer.UNWIND)
        if options.message is not None:
            return _answer_once(engine, options, options.message, words)
        if sys.stdin.isatty():
            _complain(words.type_message)
        return _answer_once(engine, options, sys.stdin.read(), words)
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        # The reader of the pipe has closed it, or the disk is full. Python's flush at exit must not fail there again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            _complain(words.cannot_print.format(reason=error.strerror))
        return 1


def _is_interactive(options: Options) -> bool:
    return options.message is None and sys.stdin.isatty() and sys.stdout.isatty()


def _load(options: Options, words: Words) -> Engine:
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        spinner: contextlib.AbstractContextManager[object] = console.status(words.loading)
    else:
        spinner = contextlib.nullcontext()
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers shows its own progress bar
    # Only a chat may change the terminal's settings: the program with one message may run in the background.
    with quiet_keyboard() if _is_interactive(options) else contextlib.nullcontext(), collector_paused():
        with spinner:
            from ..serving.engine import Engine
        return Engine.from_options(options)


def _talk(engine: Engine, options: Options, words: Words) -> int:
    from rich.console import Console

    from .chat import Chat
    from .commands import COMMANDS
    from .keyboard import CommandCompleter, Keyboard
    from .markdown import THEME

    explained = {command.name: command.explain(words) for command in COMMANDS.values()}
    files = [command.name for command in COMMANDS.values() if command.argument == "FILE"]
    folder = state_folder()
    keyboard = Keyboard(
        words.you,
        completer=CommandCompleter(explained, answer_settings(), files),
        history_file=folder / "history" if folder else None,
    )
    console = Console(theme=THEME, markup=False, emoji=False, highlight=False)
    chat = Chat(engine, options.sampling(), words, console, keyboard)
    # Ctrl-C stops an answer from here on; until here it has ended the program.
    signals.answer(sigint=signals.Answer.RAISE, sigterm=signals.Answer.UNWIND)
    with contextlib.suppress(KeyboardInterrupt):  # before the first question
        chat.run()
    return 0


def _answer_once(engine: Engine, options: Options, text: str, words: Words) -> int:
    from ..serving.reply import Failed, Finished
    from .chat import receive, remarks
    from .screen import PlainView

    if not text.strip():
        _complain(words.no_message)
        return 1
    sampling = options.sampling()
    messages = [Message(role="user", content=text.strip())]
    answer = receive(engine, messages, sampling, PlainView(sys.stdout))
    for remark in remarks(answer, sampling.max_length, engine.model_info.context_length, "--max-length N", words):
        _complain(remark)
    if answer.end is None or (isinstance(answer.end, Finished) and answer.end.reason == "cancelled"):
        return INTERRUPTED
    return 1 if isinstance(answer.end, Failed) else 0


def _complain(text: str) -> None:
    from glm_model.text.sanitize import harmless  # a late import: the package is loaded by now, or failed to load

    print(harmless(text), file=sys.stderr, flush=True)


def _reason(error: Exception) -> str:
    """Return an error's message, with its class name unless it is a ValueError or OSError with a text."""
    known = isinstance(error, ValueError | OSError)
    return str(error) if known and str(error) else f"{type(error).__name__}: {error}".rstrip(": ")


def prepare() -> None:
    """Set up the standard streams and the log of this process."""
    _open_what_is_closed()
    # A character that the stream's encoding lacks is written as a question mark instead of raising an error.
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    _log_to_file()


def _open_what_is_closed() -> None:
    """Open the null device for each standard stream that the process lacks, where Python has None."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - stays open to the end


def _log_to_file() -> None:
    """Write tracebacks to a file next to the history; on the screen they would appear within an answer."""
    handler: logging.Handler = logging.NullHandler()
    file = log_file()
    if file is not None:
        with contextlib.suppress(OSError):
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger(PACKAGE).addHandler(handler)
    logging.getLogger(PACKAGE).propagate = False
