"""Run the two programs: `glm-web` and `glm-chat` of the wheel, web_demo.py and cli_demo.py of a checkout.

Signals are answered before anything else is imported. Then the Python is checked; all modules up to here are written
for Python 3.8, so that an old one can tell. Slow libraries are imported only after the options are read, so that
--help and a wrong option are answered at once.
"""

from __future__ import annotations

import os
import sys

from .package_process import signals


def web() -> int:
    """Read the options, load the model, serve the web page, and return the exit code."""
    _begin(ends_well=True)
    from glm_model.process.imports import explained
    from glm_model.process.leftovers import temporary_folder

    from .options import parse_web
    from .proxies import no_proxy
    from .startup import collector_paused

    options = parse_web()
    try:
        folder = temporary_folder("glm-web-")
    except OSError as error:
        sys.exit(f"no temporary folder can be made, name one with TMPDIR: {error.strerror}")
    with folder as name:
        # Gradio reads this when it is imported; its own choice is one folder for all users.
        os.environ.setdefault("GRADIO_TEMP_DIR", name)
        with explained("glm-home[web]"), no_proxy(), collector_paused():
            from .web.server import run
        return run(options)


def terminal() -> int:
    """Read the options, load the model, chat in the terminal or answer one message, and return the exit code."""
    _begin(ends_well=_is_terminal())
    from glm_model.process.imports import explained

    from .options import parse_terminal

    options = parse_terminal()
    signals.begin(ends_well=_is_terminal() and options.message is None)
    with explained("glm-home"):
        from .terminal.session import start

        return start(options)


def _begin(ends_well: bool) -> None:
    signals.begin(ends_well)
    from glm_model.process.imports import keep_checkout_clean, old_python

    keep_checkout_clean()
    sentence = old_python()
    if sentence is not None:
        sys.exit(sentence)
    from .ranks import leave_the_terminal_to_rank_0

    leave_the_terminal_to_rank_0()


def _is_terminal() -> bool:
    """Return whether somebody types and reads, so that the program is a chat."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))
