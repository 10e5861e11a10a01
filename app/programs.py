"""Run the two programs: `glm-web` and `glm-chat` of the wheel, web_demo.py and cli_demo.py of a checkout.

Slow libraries are imported only after the options are read, so that --help and a wrong option are answered at once.
"""

from __future__ import annotations

from .missing import missing_library_explained
from .options import parse_terminal, parse_web
from .proxies import no_proxy
from .ranks import leave_the_terminal_to_rank_0
from .startup import collector_paused


def web() -> int:
    """Read the options, load the model, serve the web page, and return the exit code."""
    leave_the_terminal_to_rank_0()
    options = parse_web()
    with missing_library_explained("glm-home[web]"), no_proxy(), collector_paused():
        from .web.server import run
    return run(options)


def terminal() -> int:
    """Read the options, load the model, chat in the terminal or answer one message, and return the exit code."""
    leave_the_terminal_to_rank_0()
    options = parse_terminal()
    with missing_library_explained("glm-home"):
        from .terminal.session import start

        return start(options)
