"""What the programs do alike; how each of them ends is in test_exit_codes.py."""

import io
import sys

import pytest
import torch

from glm_model import CheckpointError
from glm_model.command_line import FAILED, INTERRUPTED, complain, run, sentence


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(2, "No such file or directory", "a/b"), "a/b: No such file or directory"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("cannot listen"), "cannot listen"),
        (CheckpointError("config.json is damaged"), "config.json is damaged"),
        (ValueError(), "ValueError"),
    ],
)
def test_an_error_is_a_sentence(error: Exception, words: str) -> None:
    assert sentence(error) == words


@pytest.mark.parametrize(
    ("raised", "status", "says"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee"), FAILED, "out of memory: CUDA"),
        (MemoryError(), FAILED, "out of memory\n"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), FAILED, "'utf-8' codec"),
        (KeyboardInterrupt(), INTERRUPTED, ""),
        (BrokenPipeError(), FAILED, ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_raised_becomes_a_status(
    raised: BaseException, status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> int:
        raise raised

    assert run("some", work) == status
    errors = capsys.readouterr().err
    assert errors.startswith(f"some: {says}" if says else "")
    assert errors.count("\n") == bool(says)


def test_what_is_no_fault_of_the_user_is_raised() -> None:
    """A fault of ours is to be seen whole."""

    def work() -> int:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run("some", work)


def test_streams_that_lack_a_character_or_were_never_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setattr(sys, "stdout", narrow)

    def work() -> int:
        print("热" + sys.stdin.read())
        return 0

    assert run("some", work) == 0
    assert narrow.buffer.getvalue() == b"?\n"


def test_nothing_in_a_complaint_moves_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    complain("some", "no folder \x1b[2Jx")
    assert capsys.readouterr().err == "some: no folder ␛[2Jx\n"
