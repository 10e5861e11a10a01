"""The session and its commands, with a scripted keyboard and a fake model."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.options import Options
from app.serving.conversation import from_markdown
from app.terminal.chat import Chat, count_in_words
from app.terminal.commands import COMMANDS, parse
from app.terminal.files import log_file, read, state_folder, write
from app.terminal.wording import CHINESE, ENGLISH, Words, speak
from glm_model.options import SamplingOptions
from tests.app.fake_screen import Screen
from tests.app.fakes import echo, fake_engine

pytestmark = pytest.mark.timeout(30)


class Script:
    """A keyboard whose keys are known beforehand."""

    def __init__(self, lines: list[str | type[BaseException]], yes: bool = False) -> None:
        self._lines, self._yes = iter(lines), yes
        self.asked: list[str] = []

    def read(self) -> str:
        line = next(self._lines, EOFError)
        if isinstance(line, str):
            return line
        raise line

    def confirm(self, question: str) -> bool:
        self.asked.append(question)
        return self._yes


class Session:
    """A chat run to its end over a script; remembers what was seen and what the model got."""

    def __init__(
        self,
        *lines: str | type[BaseException],
        answer: Callable[[str], str] = echo,
        words: Words = ENGLISH,
        is_demo: bool = True,
        yes: bool = False,
        sampling: SamplingOptions | None = None,
    ) -> None:
        self.screen = Screen(100, 60)
        self.screen.may_be_cleared = "clear" in "".join(map(str, lines))
        self.keyboard = Script(list(lines), yes)
        with fake_engine(answer, is_demo=is_demo) as engine:
            self.stream: Any = engine._write_text
            self.chat = Chat(
                engine, sampling or SamplingOptions(), words, self.screen.console(), self.keyboard  # type: ignore[arg-type]
            )  # fmt: skip
            self.chat.run()

    @property
    def seen(self) -> str:
        return self.screen.text()

    @property
    def prompts(self) -> list[str]:
        return [prompt.replace("\x1e", "|") for prompt in self.stream.prompts]


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


# --- talking


def test_the_model_sees_the_whole_conversation() -> None:
    session = Session("one", "two")
    assert session.prompts == ["one", "one|You said: one|two"]
    assert session.seen.endswith("GLM:\nYou said: one\n\nGLM:\nYou said: two")


def test_the_banner_says_what_answers() -> None:
    assert "python cli_demo.py --model FOLDER" in Session().seen
    assert "演示模型" in Session(words=CHINESE).seen
    assert "--model" not in Session(is_demo=False).seen
    assert "fake-glm · 1.23K parameters · cpu" in Session(is_demo=False).seen


@pytest.mark.parametrize("word", ["stop", " stop ", "/stop", "/quit", "/exit", EOFError])
def test_ways_to_leave(word: str | type[BaseException]) -> None:
    assert Session("one", word, "never asked").prompts == ["one"]


@pytest.mark.parametrize("word", ["clear", "clear ", "/clear"])
def test_clear_forgets(word: str) -> None:
    session = Session("one", word, "two")
    assert session.prompts == ["one", "two"]
    assert len(session.chat.messages) == 2


def test_ctrl_c_at_the_prompt_is_a_hint_not_an_end() -> None:
    session = Session(KeyboardInterrupt, "one")
    assert ENGLISH.leave_hint in session.seen
    assert session.prompts == ["one"]


def test_ctrl_c_between_prompts_ends_nothing_either() -> None:
    class Late(Script):
        def confirm(self, question: str) -> bool:
            raise KeyboardInterrupt

    def interrupted(question: str) -> str:
        return "fine"

    session = Session("one", answer=interrupted)
    session.chat._keyboard = Late(["/save /dev/null", "two"])  # type: ignore[assignment]
    session.chat._leaving = False
    with fake_engine() as engine:
        session.chat._engine = engine
        session.chat.run()
    assert session.chat.messages[-1]["content"] == "You said: two"


def test_half_a_character_from_the_terminal_is_survived() -> None:
    assert Session("a\udc80b").prompts == ["a\ufffdb"]


def test_retry_asks_the_last_question_again_without_its_answer() -> None:
    session = Session("one", "two", "/retry")
    assert session.prompts == ["one", "one|You said: one|two", "one|You said: one|two"]
    assert [message["content"] for message in session.chat.messages] == ["one", "You said: one", "two", "You said: two"]


def test_retry_of_nothing() -> None:
    assert ENGLISH.nothing_to_retry in Session("/retry").seen


def test_a_failure_is_told_and_can_be_tried_again() -> None:
    attempts = iter([RuntimeError("/secret"), None])

    def answer(question: str) -> str:
        error = next(attempts)
        if error:
            raise error
        return "fine"

    session = Session("one", "/retry", answer=answer)
    assert "failed while answering" in session.seen
    assert str(log_file()) in session.seen.replace("\n", "")
    assert "secret" not in session.seen
    assert session.prompts == ["one", "one"]
    assert [message["content"] for message in session.chat.messages] == ["one", "fine"]


def test_an_empty_answer_is_told_and_not_kept() -> None:
    session = Session("one", "two", answer=lambda question: "" if question == "one" else "fine")
    assert ENGLISH.empty in session.seen
    assert session.prompts == ["one", "two"]


def test_a_cut_answer_is_told() -> None:
    session = Session("x" * 20, sampling=SamplingOptions(max_length=40))
    assert "maximum length of 40 tokens. /set max_length N raises the maximum.)" in session.seen
    assert len(session.chat.messages) == 2


def test_nothing_is_advised_that_would_not_help() -> None:
    session = Session("x" * 2100, sampling=SamplingOptions(max_length=4096))  # the model takes 2048
    assert "fit. Please shorten it.\n" in session.seen + "\n"
    session = Session("x", answer=lambda _: "y" * 3000)
    assert "maximum length of 2048 tokens.)" in session.seen


def test_a_message_too_long_is_told_in_the_users_language() -> None:
    for words in (ENGLISH, CHINESE):
        session = Session("x" * 100, words=words, sampling=SamplingOptions(max_length=64))
        said = words.failed_long.format(tokens=100, limit=48, more=words.raised_by.format(how="/set max_length N"))
        assert "".join(said.split()) in "".join(session.seen.split())
        assert session.chat.messages == []


def test_trimming_is_told() -> None:
    session = Session(*["x" * 30] * 5, sampling=SamplingOptions(max_length=200))
    assert "oldest round(s) were left out" in session.seen


def test_hostile_answers_and_names_send_no_code() -> None:
    """The screen refuses everything else, wherever it comes from."""
    hostile = "\x1b]0;x\x07\x1b[2J\u202e[bold]x[/bold]"
    session = Session("q", f"/{hostile}", f"/load {hostile}", f"/set {hostile} 1", answer=lambda _: hostile)
    assert "[bold]x[/bold]" in session.seen
    assert session.chat.messages[1]["content"] == hostile  # what was said is kept exactly


# --- commands


@pytest.mark.parametrize(
    ("line", "parsed"),
    [
        ("clear", ("/clear", "")),
        ("stop\n", ("/stop", "")),
        ("/set temperature 0.5", ("/set", "temperature 0.5")),
        ("/save  my file.json ", ("/save", "my file.json")),
        ("clear the table", None),
        (" /help", None),
        ("/etc/passwd\nwhat is this?", None),
        ("hello", None),
    ],
)
def test_what_is_a_command(line: str, parsed: tuple[str, str] | None) -> None:
    assert parse(line) == parsed


def test_a_message_may_begin_with_a_slash() -> None:
    assert Session(" /help me").prompts == ["/help me"]


def test_an_unknown_command_is_not_sent() -> None:
    session = Session("/hepl")
    assert "no command /hepl" in session.seen
    assert session.prompts == []


@pytest.mark.parametrize("words", [ENGLISH, CHINESE])
def test_help_names_every_command(words: Words) -> None:
    seen = Session("/help", words=words).seen
    for command in COMMANDS.values():
        assert command.name in seen
        assert command.explain(words).split()[0] in seen


def test_set_changes_the_next_answer() -> None:
    session = Session("/set temperature 0.5", "/set top-p=0.3", "/set seed 7", "one", "/set seed none", "two")
    first, second = session.stream.seen_options
    assert (first.temperature, first.top_p, first.seed) == (0.5, 0.3, 7)
    assert second.seed is None
    assert "temperature is now 0.5." in session.seen


def test_set_alone_shows_all() -> None:
    seen = Session("/set").seen
    for line in ("max_length  2048", "top_p       0.7", "top_k       50", "temperature  0.95", "seed        none"):
        name, value = line.split()
        assert any(row.split() == [name, value] for row in seen.split("\n"))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/set temperature hot", "temperature: hot is not a number from 0 to 10"),
        ("/set top_p 0", "top_p: 0 is not a number above 0"),
        ("/set temperature none", "temperature: none is not"),
        ("/set port 1", "one of max_length, temperature"),
        ("/set temperature", "one of max_length, temperature"),
    ],
)
def test_set_refuses_nonsense(line: str, says: str) -> None:
    session = Session(line)
    assert says in session.seen
    assert session.chat.sampling == SamplingOptions()


# --- files


@pytest.mark.parametrize("name", ["talk.json", "talk.md", "my talk", "'quoted name.json'", "对话.md"])
def test_save_and_load(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    saved = Session("one", f"/save {name}").chat.messages
    session = Session(f"/load {name}", "two")
    assert session.chat.messages[:2] == saved
    assert session.prompts == ["one|You said: one|two"]
    assert "You: one\nGLM:\nYou said: one" in session.seen


def test_the_suffix_says_the_format(tmp_path: Path) -> None:
    Session("one", f"/save {tmp_path}/a.md", f"/save {tmp_path}/a.json")
    assert from_markdown((tmp_path / "a.md").read_text())[0]["content"] == "one"
    assert json.loads((tmp_path / "a.json").read_text())["messages"][0]["content"] == "one"


@pytest.mark.parametrize(("saved", "renamed"), [("a.md", "a.json"), ("a.json", "a.md"), ("b.md", "b")])
def test_a_file_that_was_renamed_is_loaded(saved: str, renamed: str, tmp_path: Path) -> None:
    Session("one", f"/save {tmp_path / saved}")
    (tmp_path / saved).rename(tmp_path / renamed)
    assert [each["content"] for each in read(tmp_path / renamed)] == ["one", "You said: one"]


def test_a_save_keeps_the_link_and_the_mode_of_a_file(tmp_path: Path) -> None:
    file, link = tmp_path / "real" / "a.json", tmp_path / "a.json"
    file.parent.mkdir()
    link.symlink_to(file)
    umask = os.umask(0o022)
    try:
        Session("one", f"/save {link}")
        assert stat.S_IMODE(file.stat().st_mode) == 0o644
        for mode in (0o666, 0o600):
            file.chmod(mode)
            Session("two", f"/save {link}", yes=True)
            assert stat.S_IMODE(file.stat().st_mode) == mode
    finally:
        os.umask(umask)
    assert link.is_symlink()
    assert read(file)[0]["content"] == "two"


@pytest.mark.parametrize("yes", [True, False])
def test_a_file_is_overwritten_only_if_wanted(yes: bool, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("precious")
    session = Session("one", f"/save {file}", yes=yes)
    assert session.keyboard.asked == [ENGLISH.overwrite.format(file=file)]
    assert (file.read_text() == "precious") is not yes


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    write(file, [{"role": "user", "content": "old"}])

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    session = Session("one", f"/save {file}", yes=True)
    assert "disk full" in session.seen
    assert read(file)[0]["content"] == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/save", "/save FILE"),
        ("/load", "/load FILE"),
        ("/save x.json", ENGLISH.nothing_to_save),
        ("/load no-such-file.json", "No such file"),
        ("/load folder", "directory"),
        ("/load bad.json", "not valid JSON"),
        ("/load bad.md", "## User"),
        ("/load binary.json", "UTF-8"),
        ("/load nul\x00.json", "null byte"),
    ],
)
def test_files_that_cannot_be_used(line: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "bad.md").write_text("hello")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    session = Session(line)
    assert says in " ".join(session.seen.split())
    assert session.chat.messages == []


@pytest.mark.parametrize("file", ["/no/such/folder/x.json", "/", "x" * 300, "nul\x00.json"])
def test_saving_where_nothing_can_be_written(file: str) -> None:
    session = Session("one", f"/save {file}", "two", yes=False)
    assert "cannot be written" in session.seen
    assert len(session.chat.messages) == 4


def test_a_loaded_question_without_answer_waits_for_retry(tmp_path: Path) -> None:
    write(tmp_path / "a.json", [{"role": "user", "content": "open"}])
    assert Session(f"/load {tmp_path}/a.json", "/retry").prompts == ["open"]


def test_home_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Session("one", "/save ~/a.json")
    assert (tmp_path / "a.json").exists()


# --- words, places, numbers


def test_both_languages_say_everything_with_the_same_blanks() -> None:
    import dataclasses
    import string

    def blanks(text: str) -> set[str | None]:
        return {name for _, name, _, _ in string.Formatter().parse(text)} - {None}

    for each in dataclasses.fields(Words):
        english, chinese = getattr(ENGLISH, each.name), getattr(CHINESE, each.name)
        assert english
        assert chinese
        assert blanks(english) == blanks(chinese), each.name


@pytest.mark.parametrize(
    ("language", "environment", "words"),
    [
        ("zh", {"LANG": "en_US.UTF-8"}, CHINESE),
        ("en", {"LANG": "zh_CN.UTF-8"}, ENGLISH),
        ("auto", {"LANG": "zh_CN.UTF-8"}, CHINESE),
        ("auto", {"LANG": "en_US.UTF-8", "LC_ALL": "zh_TW"}, CHINESE),
        ("auto", {"LANG": "zh_CN.UTF-8", "LC_MESSAGES": "C"}, ENGLISH),
        ("auto", {"LANG": "zh_CN", "LC_ALL": ""}, CHINESE),
        ("auto", {}, ENGLISH),
    ],
)
def test_the_language(language: str, environment: dict[str, str], words: Words) -> None:
    assert speak(language, environment) is words


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"XDG_STATE_HOME": "/x"}, Path("/x/glm-home")),
        ({"XDG_STATE_HOME": "relative"}, Path.home() / ".local/state/glm-home"),
        ({}, Path.home() / ".local/state/glm-home"),
    ],
)
def test_where_the_history_lies(environment: dict[str, str], folder: Path) -> None:
    assert state_folder(environment) == folder


@pytest.mark.parametrize(
    ("number", "words"), [(950, "950"), (1234, "1.23K"), (3_100_000, "3.1M"), (6_173_286_400, "6.17B")]
)
def test_counting(number: int, words: str) -> None:
    assert count_in_words(number) == words


def test_the_defaults_of_the_session_are_those_of_the_options() -> None:
    assert Options().sampling() == SamplingOptions()
