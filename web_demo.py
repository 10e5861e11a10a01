"""Chat with a GLM in the browser: `python web_demo.py --help`."""

import gc
import sys

from app.missing import missing_library_explained
from app.options import parse_web
from app.proxies import no_proxy
from app.ranks import leave_the_terminal_to_rank_0


def main() -> int:
    """Read the options, load the model, serve the page; returns the exit code."""
    leave_the_terminal_to_rank_0()
    options = parse_web()
    # Imported now, so that --help and a wrong option are answered at once. Looking for garbage among all that is
    # imported, none of which is, would take a quarter of the time.
    gc.disable()
    with missing_library_explained(), no_proxy():
        from app.web.server import run
    gc.enable()
    return run(options)


if __name__ == "__main__":
    sys.exit(main())
