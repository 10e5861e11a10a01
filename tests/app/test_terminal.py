"""The program as a person or a script meets it: in a pipe, for one message, and in a real terminal (a pty)."""

import io
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from app.options import Options
from app.terminal.session import INTERRUPTED, run
from tests import forks
from tests.app.fakes import echo, fake_engine
from tests.forks import Program

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("terminal_program.py")
SECONDS_TO_START = 60  # torch is imported


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("LANG", "C.UTF-8")
    monkeypatch.delenv("LC_ALL", raising=False)


# --- one message, without a terminal


class Printed:
    """What one run printed, and its exit code."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        *,
        piped: str = "",
        message: str | None = None,
        language: str = "en",
        answer: Callable[[str], str] = echo,
    ) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(piped))
        with fake_engine(answer) as engine:
            self.code = run(engine, Options(message=message, language=language, max_length=64))
        self.out, self.err = capsys.readouterr()


@pytest.mark.parametrize(
    ("piped", "message", "out"),
    [
        ("你好\n", None, "You said: 你好\n"),
        ("lines\n\nare one\n", None, "You said: lines\n\nare one\n"),
        ("ignored", "hi", "You said: hi\n"),
        ("clear\n", None, "You said: clear\n"),
        ("/help", None, "You said: /help\n"),
    ],
)
def test_the_answer_alone_is_printed(
    piped: str, message: str | None, out: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = Printed(monkeypatch, capsys, piped=piped, message=message)
    assert (printed.code, printed.out, printed.err) == (0, out, "")


def fail(question: str) -> str:
    raise RuntimeError("secret")


@pytest.mark.parametrize(
    ("message", "answer", "code", "says"),
    [
        ("", echo, 1, "no message"),
        (" \n", echo, 1, "no message"),
        ("x", fail, 1, "failed while answering"),
        ("x" * 60, echo, 1, "too long: 60 tokens, where at most 48 fit"),
        ("x", lambda _: "", 0, "empty answer"),
        ("x" * 40, echo, 0, "maximum length of 64 tokens. --max-length N raises"),
    ],
)
def test_remarks_go_to_standard_error(
    message: str,
    answer: Callable[[str], str],
    code: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    printed = Printed(monkeypatch, capsys, message=message, answer=answer)
    assert printed.code == code
    assert says in printed.err
    assert says not in printed.out
    assert "Traceback" not in printed.err
    assert "secret" not in printed.err


def test_it_speaks_chinese(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert "标准输入是空的" in Printed(monkeypatch, capsys, language="zh").err


@contextmanager
def program(*arguments: str, start: type[subprocess.Popen[bytes]] = Program) -> Iterator[subprocess.Popen[bytes]]:
    process = start(
        [sys.executable, str(PROGRAM), *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def pipe(end: IO[bytes] | None) -> IO[bytes]:
    assert end is not None
    return end


def test_a_real_pipe_gets_text_as_it_comes_and_ctrl_c_keeps_it() -> None:
    with program("--message", "count") as process:
        begun = pipe(process.stdout).read(4)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=20)
    assert process.returncode == INTERRUPTED
    assert begun == b"0 1 "
    assert (begun + rest).endswith(b"\n")
    assert errors == b"(stopped)\n"


def test_a_reader_that_goes_away_ends_it_without_a_traceback() -> None:
    with program("--message", "count") as process:
        assert pipe(process.stdout).read(4) == b"0 1 "
        pipe(process.stdout).close()
        process.stdout = None
        assert process.wait(20) == 1
        assert pipe(process.stderr).read() == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full disk")
def test_a_full_disk_is_a_sentence() -> None:
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, str(PROGRAM), "--message", "hi"]
        with Program[str](command, text=True, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE) as process:
            _, errors = process.communicate(timeout=SECONDS_TO_START)
    assert (process.returncode, errors) == (1, "The answer cannot be written: No space left on device\n")


def test_a_stream_that_was_never_opened_is_an_empty_one() -> None:
    command = f"{shlex.quote(sys.executable)} {shlex.quote(str(PROGRAM))}"
    done = subprocess.run(
        f"{command} <&-; echo $?; {command} --message hi >&-; echo $?; {command} --message hi 2>&-; echo $?",
        shell=True, capture_output=True, timeout=3 * SECONDS_TO_START,
    )  # fmt: skip
    assert done.stderr == b"There is no message: standard input is empty.\n"
    assert done.stdout == b"1\n0\nYou said: hi\n0\n"


def test_hostile_text_in_a_pipe_without_a_utf8_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    with program("--message", "hostile", start=subprocess.Popen) as process:
        out, errors = process.communicate(timeout=SECONDS_TO_START)
    assert (out, errors, process.returncode) == (b"?[2J?]0;x?done\n", b"", 0)


@pytest.mark.parametrize("folder", ["/no/such/folder", "empty"])
def test_a_wrong_model_folder_is_a_sentence(folder: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    command = [sys.executable, "cli_demo.py", "--model", tmp_path / folder, "--message", "hi", "--language=en"]
    done = forks.run(command, cwd=ROOT, timeout=SECONDS_TO_START)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("The model cannot be loaded: ")
    assert Path(folder).name in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "question", "answer"),
    [
        (["--temperature=0"], "What is 17 + 25?", "42"),
        (["--temperature=0", "--model=tests/data/golden/chatglm_tiny_chat"], "你好", "你好👋"),
    ],
)
def test_a_real_model_answers_in_a_pipe(arguments: list[str], question: str, answer: str) -> None:
    """The demo model when nothing is named, and a folder in the published layout; nothing but the answer is printed."""
    done = subprocess.run(
        [sys.executable, "cli_demo.py", *arguments],
        cwd=ROOT,
        input=question + "\n",
        capture_output=True,
        text=True,
        timeout=SECONDS_TO_START,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert answer in done.stdout


# --- in a terminal

CTRL_C, CTRL_D = b"\x03", b"\x04"
ASKS_FOR_CURSOR = b"\x1b[6n"
CODES = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")


class Terminal:
    """The program in a pty, its output so far, and the keys."""

    def __init__(self, *arguments: str) -> None:
        self._master, slave = os.openpty()
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
        command = [sys.executable, str(PROGRAM), *arguments]
        self.process = Program[bytes](command, env=environment, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        self._raw = b""
        self._seen = 0

    @property
    def raw(self) -> str:
        return self._raw.decode("utf-8", "replace")

    def keys(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def until(self, text: str, seconds: float = 20) -> str:
        """Read until `text` comes, after what was read for earlier calls; returns what came, without codes."""
        deadline = time.monotonic() + seconds
        while (found := self._new().find(text)) < 0:
            assert time.monotonic() < deadline, f"no {text!r} in {self._new()!r}"
            self._read(0.1)
        came = self._new()[: found + len(text)]
        self._seen += len(came)
        return came

    def _new(self) -> str:
        return CODES.sub("", self.raw)[self._seen :]

    def _read(self, seconds: float) -> None:
        if not select.select([self._master], [], [], seconds)[0]:
            return
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux reports the end of a pty so
            data = b""
        self._raw += data
        if ASKS_FOR_CURSOR in data:
            self.keys(b"\x1b[1;1R")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal("--language=en")
    yield terminal
    terminal.close()


def test_a_session_in_a_real_terminal(terminal: Terminal) -> None:
    terminal.until("You: ", SECONDS_TO_START)
    terminal.keys("你好吗".encode() + b"\x7f\r")
    terminal.until("GLM:")
    assert "You said: 你好" in terminal.until("You: ")

    terminal.keys(b"count\r")
    terminal.until(" 5 6 7")
    terminal.keys(b"xyz")
    time.sleep(0.2)
    pressed = time.monotonic()
    terminal.keys(CTRL_C)
    answer = terminal.until("(stopped)")
    assert time.monotonic() - pressed < 2
    assert "xyz" not in answer
    assert "^C" not in answer
    assert " 999" not in answer
    terminal.until("You: ")

    terminal.keys(b"one\r")
    terminal.until("GLM:")
    terminal.keys(b"typed ahead\r")
    assert "typed" not in terminal.until("You said: one")
    terminal.until("You said: typed ahead")
    terminal.until("You: ")

    terminal.keys(b"hostile\r")
    terminal.until("␛]0;x␇done")
    terminal.until("You: ")
    terminal.keys(CTRL_C)
    terminal.until("Ctrl-D leaves")
    terminal.keys(CTRL_D)
    assert terminal.process.wait(20) == 0
    assert "\x1b[2J" not in terminal.raw
    assert "\x1b]" not in terminal.raw
    assert "\x1b[?1049h" not in terminal.raw  # no full-screen mode
