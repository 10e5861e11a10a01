"""`cli_demo.py` with a fake model, as a program of its own for tests with a real terminal.

The answer to "count" is long and slow; others echo at once.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from app.options import parse_terminal

SECONDS_PER_CHARACTER = 0.01


def answer(question: str) -> str:
    """What the fake model says."""
    if question == "fail":
        raise RuntimeError("secret detail")
    if question == "hostile":
        return "\x1b[2J\x1b]0;x\x07done"
    return " ".join(map(str, range(10_000))) if question == "count" else f"You said: {question}"


if __name__ == "__main__":
    options = parse_terminal()
    from app.terminal.session import prepare, run
    from tests.app.fakes import fake_engine

    prepare()
    with fake_engine(answer, delay=SECONDS_PER_CHARACTER) as engine:
        sys.exit(run(engine, options))
