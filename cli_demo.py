"""Chat with a GLM in the terminal: `python cli_demo.py --help`."""

import sys

from app.programs import terminal

if __name__ == "__main__":
    sys.exit(terminal())
