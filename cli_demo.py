"""Chat with a GLM in the terminal: `python cli_demo.py --help`."""

import sys

from app.missing import missing_library_explained
from app.options import parse_terminal
from app.ranks import leave_the_terminal_to_rank_0

if __name__ == "__main__":
    leave_the_terminal_to_rank_0()
    options = parse_terminal()
    with missing_library_explained():
        from app.terminal.session import start  # after the options: --help must not wait for it

        sys.exit(start(options))
