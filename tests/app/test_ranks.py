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


ALONE = [{}, {"RANK": "1"}, {"RANK": "1", "WORLD_SIZE": "1"}, {"RANK": "x", "WORLD_SIZE": "2"},
         {"RANK": "1", "WORLD_SIZE": "many"}, {"RANK": "1", "WORLD_SIZE": ""}]  # fmt: skip
FIRST, SECOND = ({"RANK": rank, "WORLD_SIZE": "2"} for rank in "01")


@pytest.mark.parametrize(
    ("names", "output"), [*((names, "heard a question\n") for names in [*ALONE, FIRST]), (SECOND, "")]
)
def test_only_rank_0_listens_and_speaks(names: dict[str, str], output: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")} | names
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, input="a question", capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == (output, "complained\n")
