"""Who may use the terminal under torchrun."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from app.ranks import leave_the_terminal_to_rank_0
leave_the_terminal_to_rank_0()
print("heard", sys.stdin.read())
print("complained", file=sys.stderr)
"""


@pytest.mark.parametrize(("rank", "output"), [(None, "heard a question\n"), ("0", "heard a question\n"), ("1", "")])
def test_only_rank_0_listens_and_speaks(rank: str | None, output: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RANK"}
    environment |= {} if rank is None else {"RANK": rank}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, input="a question", capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == (output, "complained\n")
