"""Runs programs: gives all of them the same exit statuses, error messages and treatment of the standard streams.

The exit status of every program, ``web_demo.py`` and ``cli_demo.py`` included:

- 0: the work is done.
- 1: the work failed, with one sentence on standard error: a folder that is missing or damaged, flags that do not suit
  the model in it, a full disk, too little memory. Also where the answer is no: ``plan``, if the model does not fit (the
  report says why). Also, without a sentence, if the reader of the output has closed the pipe.
- 2: the command line is wrong, whatever files there are: an unknown flag, a value out of range, two flags that exclude
  each other. One line on standard error says so before anything is loaded.
- 130: stopped with Ctrl-C (128 + SIGINT); 143: ended by SIGTERM (128 + 15), as shells report it. A program that is
  there to be stopped ends with 0 instead, after either signal and when it is left: the web server, the chat in a
  terminal and ``fill`` at a keyboard. There Ctrl-C stops an answer that is being written, and not the program.

A signal ends a program within five seconds, from its first lines on and as process 1 of a container too, without a
traceback; a second one ends it at once. No temporary folder and no compiler stays behind: see
``glm_model/process/signals.py``.

``python -m glm_model.evaluation`` is lm-eval's command, which reads its own command line; the rest follows the rule.
"""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from .options import EXIT_STATUS, FAILED, INTERRUPTED, SUCCEEDED, Parser
from .process import signals
from .text.sanitize import harmless

__all__ = ["EXIT_STATUS", "FAILED", "INTERRUPTED", "SUCCEEDED", "Parser", "complain", "run", "sentence"]


def run(name: str, work: Callable[[], int]) -> int:
    """Run a program and return its exit status, after one sentence on standard error if it failed.

    Args:
        name: name of the program, with which its messages begin.
        work: reads the command line, does the work and returns the exit status.
    """
    began = not signals.is_begun() and signals.begin(ends_well=False)
    signals.answer(sigint=signals.Answer.UNWIND)
    _open_streams()
    try:
        status = work()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output is gone, so there is nobody to read a sentence
        status = FAILED
    except (MemoryError, torch.OutOfMemoryError) as error:
        complain(name, f"out of memory: {error}".splitlines()[0].removesuffix(": "))
        status = FAILED
    except (ValueError, OSError) as error:
        complain(name, sentence(error))
        status = FAILED
    except KeyboardInterrupt:
        status = INTERRUPTED
    finally:
        _discard_unwritable_output()
        if began:
            signals.end()
    return status


def complain(name: str, text: str) -> None:
    """Print a message on standard error, after the program's name, with control characters made visible."""
    print(f"{name}: {harmless(text)}", file=sys.stderr, flush=True)


def sentence(error: Exception) -> str:
    """Return an error's message for a user; for an error of the operating system, the file and the reason."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _open_streams() -> None:
    """Make the standard streams usable.

    A character that a stream's encoding lacks is written as a question mark. A stream that is closed becomes the null
    device.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - to the end
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _discard_unwritable_output() -> None:
    """Discard output that standard output does not accept.

    Python would try to write it again when it exits, and replace the exit status when that fails.
    """
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
