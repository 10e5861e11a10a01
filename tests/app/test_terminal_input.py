"""The line editor, driven by the bytes that a terminal sends."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.application import Application, create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from app.terminal.keyboard import CommandCompleter, Keyboard

pytestmark = pytest.mark.timeout(30)

ENTER, ALT_ENTER, CTRL_C, CTRL_D, CTRL_J, CTRL_Z = "\r", "\x1b\r", "\x03", "\x04", "\n", "\x1a"
BACKSPACE, UP, DOWN, LEFT, TAB = "\x7f", "\x1b[A", "\x1b[B", "\x1b[D", "\t"


@pytest.fixture
def keys() -> Iterator[PipeInput]:
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        yield pipe


def typed(keys: PipeInput, text: str, keyboard: Keyboard | None = None) -> str:
    keys.send_text(text)
    return (keyboard or Keyboard("You: ")).read()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello\r", "hello"),
        ("你好，世界" + ENTER, "你好，世界"),
        ("你好世界" + BACKSPACE * 2 + "吗" + ENTER, "你好吗"),
        ("世界" + LEFT * 2 + "你好" + ENTER, "你好世界"),
        ("😀é" + BACKSPACE + ENTER, "😀"),
        ("one" + ALT_ENTER + "two" + CTRL_J + "three" + ENTER, "one\ntwo\nthree"),
        ("one" + ALT_ENTER + "two" + UP + "X" + ENTER, "oneX\ntwo"),
        ("\x1b[200~pasted\nlines\r\nhere\x1b[201~" + ENTER, "pasted\nlines\nhere"),
        ("thrown away" + CTRL_C + "kept" + ENTER, "kept"),
        (ENTER + "  " + ENTER + "x" + ENTER, "  x"),
    ],
)
def test_editing(keys: PipeInput, text: str, message: str) -> None:
    assert typed(keys, text) == message


def test_ctrl_c_and_ctrl_d_on_nothing(keys: PipeInput) -> None:
    with pytest.raises(KeyboardInterrupt):
        typed(keys, CTRL_C)
    with pytest.raises(EOFError):
        typed(keys, CTRL_D)


def test_ctrl_z_suspends_the_program(keys: PipeInput, monkeypatch: pytest.MonkeyPatch) -> None:
    suspended: list[bool] = []
    monkeypatch.setattr(Application, "suspend_to_background", lambda self: suspended.append(True))
    assert typed(keys, "one" + CTRL_Z + " two" + ENTER) == "one two"
    assert suspended == [True]


def test_arrows_recall_earlier_messages(keys: PipeInput) -> None:
    keyboard = Keyboard("You: ")
    assert typed(keys, "first" + ENTER, keyboard) == "first"
    assert typed(keys, "second" + ENTER, keyboard) == "second"
    assert typed(keys, UP + UP + ENTER, keyboard) == "first"
    assert typed(keys, UP + UP + DOWN + "!" + ENTER, keyboard) == "first!"


def test_history_outlives_the_session_and_is_private(keys: PipeInput, tmp_path: Path) -> None:
    file = tmp_path / "state" / "history"
    assert typed(keys, "你好" + ALT_ENTER + "line" + ENTER, Keyboard("You: ", history_file=file)) == "你好\nline"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert typed(keys, UP + ENTER, Keyboard("You: ", history_file=file)) == "你好\nline"


def test_a_message_that_no_file_takes_is_sent_all_the_same(keys: PipeInput, tmp_path: Path) -> None:
    keys.send_bytes(b"a\xff\r")
    assert Keyboard("You: ", history_file=tmp_path / "history").read() == "a\udcff"


def test_a_history_that_cannot_be_kept_is_no_reason_to_stop(keys: PipeInput, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert typed(keys, "a" + ENTER, Keyboard("You: ", history_file=tmp_path / "file" / "history")) == "a"
    file = tmp_path / "history"
    keyboard = Keyboard("You: ", history_file=file)
    file.unlink()
    file.mkdir()
    assert typed(keys, "b" + ENTER, keyboard) == "b"


@pytest.mark.parametrize(
    ("text", "answer"),
    [("y\r", True), ("是\r", True), ("YES\r", True), ("\r", False), ("n\r", False), (CTRL_C, False), (CTRL_D, False)],
)
def test_confirming(keys: PipeInput, text: str, answer: bool) -> None:
    keys.send_text(text)
    assert Keyboard("You: ").confirm("Sure? ") is answer


def test_tab_completes_a_command(keys: PipeInput) -> None:
    keyboard = Keyboard("You: ", completer=completer())
    assert typed(keys, "/he" + TAB + ENTER, keyboard) == "/help"
    assert typed(keys, "/set to" + TAB + "k" + ENTER, keyboard) == "/set top_k"
    assert typed(keys, "no" + TAB + ENTER, keyboard) == "no"


# --- completion


def completer() -> CommandCompleter:
    return CommandCompleter({"/help": "h", "/set": "s", "/save": "f"}, ["top_p", "top_k", "seed"], ["/save"])


def completions(text: str) -> list[str]:
    return [each.text for each in completer().get_completions(Document(text), CompleteEvent())]


def test_what_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "talk.json").write_text("")
    assert completions("/") == ["/help", "/set", "/save"]
    assert completions("/s") == ["/set", "/save"]
    assert completions("/set to") == ["top_p", "top_k"]
    assert completions("/set top_p ") == []
    assert completions("/save ta") == ["lk.json"]
    assert completions("hello") == completions("") == completions("/x") == completions("/\n") == []
