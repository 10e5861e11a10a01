"""``python -m glm_model.fill``: where texts come from, what is printed where, and how it ends."""

import contextlib
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from glm_model import FillOptions, fill_blanks, load
from glm_model.blank_filling import stream_blanks
from glm_model.fill import __main__ as program
from glm_model.fill import filler
from glm_model.fill.arguments import parse
from glm_model.fill.interrupt import noted_interrupts
from glm_model.options import LoadOptions
from tests import forks
from tests.blank_filling.toy import IntegerTokenizer, drawn_model
from tests.checkpoints import write_checkpoint
from tests.forks import Program

ROOT = Path(__file__).parents[2]
SECONDS_TO_START = 120
TEXT = "10 20 [MASK] 30 [MASK] 40 50"
GREEDY = FillOptions(temperature=0, max_length=60, every_kind=True)
RUN = ["--strategy=greedy", "--max-length=60"]


def wanted(text: str, options: FillOptions = GREEDY) -> str:
    return fill_blanks(drawn_model(1), IntegerTokenizer(), text, options).texts[0].text


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the program on a model of integers; status, output and complaints."""
    monkeypatch.setattr("glm_model.fill.filler.load", lambda *_, **__: (drawn_model(1), IntegerTokenizer()))

    def run(*arguments: str, typed: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        status = program.main(arguments)
        return (status, *capsys.readouterr())

    return run


# ---- texts


def test_one_text(run: Callable[..., Any]) -> None:
    assert run(TEXT, *RUN)[:2] == (0, wanted(TEXT) + "\n")


def test_a_line_in_is_a_line_out(run: Callable[..., Any], tmp_path: Path) -> None:
    lines = ["10 20 [MASK]", "", "[MASK] " * 65, TEXT]
    shown = "\n".join([wanted(lines[0]), "", "", wanted(TEXT), ""])
    file = tmp_path / "texts.txt"
    file.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    status, out, errors = run("--file", str(file), "--strategy=greedy", "--max-length=100")
    long = FillOptions(temperature=0, max_length=100, every_kind=True)
    assert out == "\n".join([wanted(lines[0], long), "", "", wanted(TEXT, long), ""])
    assert status == 1
    assert f"{file}:3: the text has 65 blanks, at most 64" in errors
    status, out, errors = run(*RUN, typed="\n".join(lines))
    assert (status, out) == (1, shown)
    assert "line:3: the text has" in errors
    assert run("--file=-", *RUN, typed=lines[0])[:2] == (0, wanted(lines[0]) + "\n")


def test_lines_that_the_model_writes_do_not_move_the_others(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(IntegerTokenizer, "decode_exact", lambda self, ids: "\n".join(map(str, ids)))
    _, alone, _ = run(TEXT, *RUN)
    assert alone.count("\n") > 1
    _, out, _ = run(*RUN, typed=f"{TEXT}\n{TEXT}\n")
    assert out == 2 * (alone.removesuffix("\n").replace("\n", "␊") + "\n")


def test_json_has_a_line_for_each_text_and_for_each_failure(run: Callable[..., Any]) -> None:
    status, out, _ = run("--json", *RUN, typed=f"{TEXT}\n\n10 [MASK]\n")
    first, second, third = map(json.loads, out.splitlines())
    assert status == 1
    assert (first["text"], first["filled"]) == (TEXT, wanted(TEXT))
    assert len(first["blanks"]) == len(fill_blanks(drawn_model(1), IntegerTokenizer(), TEXT, GREEDY).blanks)
    assert second["text"] == ""
    assert "no tokens" in second["error"]
    assert third["filled"] == wanted("10 [MASK]")


def test_all_beams(run: Callable[..., Any]) -> None:
    status, out, _ = run(TEXT, "--all-beams", "--num-beams=3", "--max-length=60")
    options = FillOptions(strategy="beam_search", num_beams=3, max_length=60, every_kind=True)
    texts = fill_blanks(drawn_model(1), IntegerTokenizer(), TEXT, options).texts
    assert status == 0
    assert out.splitlines() == [f"{text.score:.4f}\t{text.text}" for text in texts]


def test_colour_on_request(run: Callable[..., Any]) -> None:
    _, out, _ = run(TEXT, "--color=always", *RUN)
    assert re.sub(r"\x1b\[[\d;]*m", "", out) == run(TEXT, *RUN)[1]
    assert out.count("\x1b[1;32m") >= 2


def test_a_cut_text_is_told(run: Callable[..., Any]) -> None:
    status, _, errors = run("10 [MASK] 20", "--num-beams=2", "--min-gen-length=50", "--max-length=20")
    assert status == 0
    assert "reached 20 tokens and was cut; see --max-length" in errors


def test_no_more_than_the_model_takes(run: Callable[..., Any]) -> None:
    """128 tokens, whatever was asked for."""
    _, _, errors = run("10 [MASK] 20", "--num-beams=2", "--min-gen-length=500", "--max-length=5000")
    assert "reached 128 tokens" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "fill: the text has no tokens"),
        (["[MASK]" * 100], "fill: the text has 100 blanks, at most 64 can be filled"),
        (["1 " * 300], "fill: the text has 301 tokens, the model takes 128"),
        (["1 " * 70 + "[MASK]", "--max-length=60"], "fill: the text has 71 tokens and max_length is 60"),
        (["--file=/no/such/file"], "fill: cannot read /no/such/file: No such file"),
        (["--file=/"], "fill: cannot read /: Is a directory"),
        ([], "fill: there is no text"),
    ],
)
def test_what_cannot_be_filled_is_a_sentence(run: Callable[..., Any], arguments: list[str], message: str) -> None:
    status, out, errors = run(*arguments)
    assert (status, out) == (1, "")
    assert errors.startswith(message)
    assert len(errors.splitlines()) == 1


def write_nowhere(error: OSError) -> Callable[..., None]:
    """A print whose reader has gone, or whose disk is full."""

    def show(*_: Any, file: Any = None, **__: Any) -> None:
        if file is None:
            raise error

    return show


def test_what_cannot_be_written_is_not_the_fault_of_the_file(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "texts.txt"
    file.write_text(TEXT, encoding="utf-8")
    monkeypatch.setattr(program, "print", write_nowhere(OSError(28, "No space left on device")), raising=False)
    status, out, errors = run("--file", str(file), *RUN)
    assert (status, out) == (1, "")
    assert errors.splitlines()[-1] == "fill: No space left on device"


def test_a_reader_that_has_gone_is_no_word_worth(tmp_path: Path) -> None:
    """From a file as from a pipe."""
    file = tmp_path / "texts.txt"
    file.write_text("The capital of [MASK] is Paris.\n", encoding="utf-8")
    command = [sys.executable, "-m", "glm_model.fill", "--strategy=greedy", "--file", str(file)]
    reading, writing = os.pipe()
    os.close(reading)
    with Program[str](command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True) as started:
        os.close(writing)
        _, errors = started.communicate(timeout=SECONDS_TO_START)
    assert (started.returncode, errors) == (1, "")


def test_a_file_that_is_no_text(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"\xff\xfe\x00")
    status, _, errors = run("--file", str(tmp_path / "model.bin"))
    assert (status, errors) == (1, f"fill: {tmp_path / 'model.bin'} is not text in UTF-8\n")


def test_an_unknown_folder_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["x", "--model=/no/such/folder"]) == 1
    assert capsys.readouterr().err.startswith("fill: there is no folder /no/such/folder")


def test_ctrl_c_ends_without_a_word(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def press(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("glm_model.fill.filler.stream_blanks", press)
    assert run(TEXT) == (130, "", "")


def test_ctrl_c_while_the_model_works_stops_within_a_token(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []

    def noted(*arguments: Any, **settings: Any) -> Iterator[Any]:
        for step in stream_blanks(*arguments, **settings):
            steps.append(step)
            if len(steps) == 3:
                signal.raise_signal(signal.SIGINT)
            yield step

    monkeypatch.setattr("glm_model.fill.filler.stream_blanks", noted)
    before = signal.getsignal(signal.SIGINT)
    assert run("10 [MASK] 20", "--num-beams=2", "--min-gen-length=90", "--max-length=100") == (130, "", "")
    assert len(steps) <= 5
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_does_not_wait() -> None:
    with noted_interrupts() as is_interrupted:
        assert not is_interrupted()
        signal.raise_signal(signal.SIGINT)
        assert is_interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with noted_interrupts() as is_interrupted:
            signal.raise_signal(signal.SIGINT)
            assert not is_interrupted()
    finally:
        signal.signal(signal.SIGINT, before)


# ---- options


def parsed(line: str) -> FillOptions:
    return parse(line.split()).options


def test_options_are_those_of_generate_py() -> None:
    given = parsed("x --strategy sampling --temperature 0.5 --top-k 7 --top-p 0.3 --max-length 99 --seed 3 --one-kind")
    assert given == FillOptions(temperature=0.5, top_k=7, top_p=0.3, max_length=99, seed=3)
    given = parsed("x --num-beams 5 --length-penalty -0.5 --min-gen-length 2 --no-repeat-ngram-size 4")
    assert given == FillOptions(
        "beam_search", num_beams=5, length_penalty=-0.5, min_gen_length=2, no_repeat_ngram_size=4, every_kind=True
    )
    assert parsed("x") == FillOptions(every_kind=True)
    assert parsed("x --temperature=0") == parsed("x --strategy=greedy")
    assert not parsed("x --draw-beams").deterministic
    assert parsed("x --all-beams").strategy == "beam_search"


def test_loading_is_that_of_every_front_end(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def load_nothing(path: str, *, options: LoadOptions) -> Any:
        seen.update(vars(options))
        raise ValueError("nothing there")

    monkeypatch.setattr(filler, "load", load_nothing)
    line = "x --quantize int4 --quantize-head --precision fast --cache-dtype bfloat16 --prefix p"
    assert program.main(line.split()) == 1
    assert seen == {
        "quantize": "int4", "quantize_head": True, "precision": "fast", "cache_dtype": "bfloat16", "prefix": "p",
        "device": "auto", "dtype": "auto", "device_map": None, "tensor_parallel": 1, "pipeline_parallel": 1,
        "max_memory": None, "offload_folder": None,
    }  # fmt: skip


def test_a_stream_that_was_never_opened_is_an_empty_one(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io, "StringIO", lambda typed: None)  # what `run` reads from
    assert run(*RUN) == (1, "", "fill: there is no text: give one in quotes, in a --file or through a pipe\n")
    monkeypatch.setattr(sys, "stdout", None)
    assert program.main([TEXT, *RUN]) == 0


def test_torchrun_is_told_of_as_it_must_be_called() -> None:
    command = [sys.executable, "-m", "glm_model.fill", "a [MASK]", "--tensor-parallel=2"]
    done = forks.run(command, cwd=ROOT, timeout=SECONDS_TO_START)
    assert "torchrun --nproc-per-node 2 -m glm_model.fill 'a [MASK]' --tensor-parallel=2" in done.stderr


@pytest.mark.parametrize(
    "wrong",
    [
        "x --file y",
        "x --top-p 2",
        "x --temperature warm",
        "x --num-beams 0",
        "x --strategy greedy --num-beams 2",
        "x --strategy sampling --all-beams",
        "x --strategy best",
        "x --quantize int2",
        "x --seed 99999999999999999999",
        "x --device gpu",
        "x --tensor-parallel 0",
        "x --tensor-parallel 2 --device-map auto",
    ],
)
def test_wrong_options_are_a_line(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parse(wrong.split())
    assert left.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


# ---- real models


def test_a_published_folder_fills_blanks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights of chance, both vocabularies: the text around a blank comes back as it was."""
    for vocab in (130528, 150528):
        write_checkpoint(tmp_path / str(vocab), vocab=vocab)
        assert program.main(["你好 [MASK] world", f"--model={tmp_path / str(vocab)}", "--max-length=16"]) == 0
        filled = capsys.readouterr().out
        assert filled.startswith("你好 ")
        assert filled.endswith(" world\n")


def test_the_program_itself_fills_from_a_pipe_with_the_demo_model() -> None:
    texts = ["The capital of [MASK] is Paris.", "5 + 5 = [MASK]. 热的反义词是[MASK]。"]
    done = subprocess.run(
        [sys.executable, "-m", "glm_model.fill", "--strategy=greedy"],
        cwd=ROOT,
        input="\n".join(texts),
        capture_output=True,
        text=True,
        timeout=SECONDS_TO_START,
    )
    options = FillOptions(temperature=0, every_kind=True)
    model, tokenizer = load()
    shown = "".join(fill_blanks(model, tokenizer, text, options).texts[0].text + "\n" for text in texts)
    assert (done.stdout, done.stderr, done.returncode) == (shown, "", 0)


# ---- a keyboard

CTRL_C, CTRL_D = b"\x03", b"\x04"


class Terminal:
    """The program in a pty of its own."""

    def __init__(self, *arguments: str) -> None:
        self._keyboard, slave = pty.openpty()
        self.process = Program[bytes](
            [sys.executable, "-m", "glm_model.fill", *arguments],
            cwd=ROOT, env={**os.environ, "TERM": "xterm-256color"}, stdin=slave, stdout=slave, stderr=slave,
        )  # fmt: skip
        os.close(slave)
        self.seen = ""
        self._waited_for = 0  # how much of it

    def type(self, keys: bytes) -> None:
        os.write(self._keyboard, keys)

    def until(self, text: str, seconds: float = SECONDS_TO_START) -> None:
        """Read until `text` comes after what was waited for before."""
        deadline = time.monotonic() + seconds
        while (found := self.seen.find(text, self._waited_for)) < 0:
            assert time.monotonic() < deadline, f"no {text!r} in {self.seen!r}"
            self._read()
        self._waited_for = found + len(text)

    def leave(self) -> int:
        """Wait for the end; the exit status."""
        deadline = time.monotonic() + SECONDS_TO_START
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"still runs after {self.seen!r}"
            self._read()
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._keyboard)

    def _read(self) -> None:
        if select.select([self._keyboard], [], [], 0.1)[0]:
            with contextlib.suppress(OSError):  # Linux reports the end of a pty so
                self.seen += os.read(self._keyboard, 65536).decode("utf-8", "replace")


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal("--num-beams=2", "--min-gen-length=1000", "--max-length=1024", "--no-repeat-ngram-size=0")
    yield terminal
    terminal.close()


def test_ctrl_c_stops_the_model_and_then_the_program(terminal: Terminal) -> None:
    terminal.until("> ")
    terminal.type(b"\n")
    terminal.until("> ")
    terminal.type("热的反义词是[MASK]。\n".encode())
    terminal.until("filling blank 1 of 1")
    terminal.type(CTRL_C)
    terminal.until("fill: stopped")
    terminal.until("> ")
    time.sleep(0.3)  # as any hand needs: Python's readline misses a signal between its prompt and its waiting for keys
    terminal.type(CTRL_C)
    assert terminal.leave() == 0
    assert "Traceback" not in terminal.seen
