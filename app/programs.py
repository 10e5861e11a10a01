"""Run the two programs: `glm-web` and `glm-chat` of the wheel, web_demo.py and cli_demo.py of a checkout.

Slow libraries are imported only after the options are read, so that --help and a wrong option are answered at once.
Before anything else, signals are answered and the Python is checked; until then nothing newer than Python 3.8 is read.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import Iterator  # noqa: UP035 - that of collections.abc has no [] in Python 3.8

from .package_process import imports, leftovers, signals
from .ranks import leave_the_terminal_to_rank_0


def web() -> int:
    """Read the options, load the model, serve the web page, and return the exit code."""
    _begin(ends_well=True)
    from .options import parse_web
    from .proxies import no_proxy
    from .startup import collector_paused

    options = parse_web()
    with _gradio_folder():
        with imports.explained("glm-home[web]"), no_proxy(), collector_paused():
            from .web.server import run
        return run(options)


def terminal() -> int:
    """Read the options, load the model, chat in the terminal or answer one message, and return the exit code."""
    _begin(ends_well=_is_terminal())
    from .options import parse_terminal

    options = parse_terminal()
    signals.begin(ends_well=_is_terminal() and options.message is None)
    with imports.explained("glm-home"):
        from .terminal.session import start

        return start(options)


def _begin(ends_well: bool) -> None:
    sentence = imports.old_python()
    if sentence is not None:
        sys.exit(sentence)
    signals.begin(ends_well)
    imports.keep_checkout_clean()
    leave_the_terminal_to_rank_0()


@contextmanager
def _gradio_folder() -> Iterator[None]:
    """Let Gradio keep its files in a folder of this process, which is removed at the end, and not in one of all users.

    Gradio reads the variable when it is imported.
    """
    try:
        folder = leftovers.temporary_folder("glm-web-")
    except OSError as error:
        sys.exit(f"no temporary folder can be made, name one with TMPDIR: {error.strerror}")
    with folder:
        os.environ.setdefault("GRADIO_TEMP_DIR", folder.name)
        yield


def _is_terminal() -> bool:
    """Return whether somebody types and reads, so that the program is a chat."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))
