"""How every program ends; the rule is in the docstring of glm_model/command_line.py.

The programs are run as they are started, in processes of their own. One interpreter imports the model package and
Gradio and forks for each, because these imports take longer than all else that happens here. What a signal does while
they are imported is in tests/process/test_importing.py.
"""

import json
import os
import signal
import subprocess
import sys
import types
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from glm_model import CheckpointError
from glm_model.evaluation import __main__ as evaluation
from glm_model.loading import DEMO_MODEL

ROOT = Path(__file__).parent.parent
NOWHERE = "/no/such/folder"
FITS = ["--model=demo", "--gpus=24GB"]
PROGRAMS = ["glm_model", "fill", "plan", "conversion", "evaluation", "demo_recipe", "web", "terminal"]
# How the one who starts a program calls it.
STARTED = {
    "glm_model": "glm_model",
    "demo_recipe": "demo_recipe",
    "web": "web_demo.py",
    "terminal": "cli_demo.py",
    **{name: f"glm_model.{name}" for name in ("fill", "plan", "conversion", "evaluation")},
}


@dataclass(frozen=True)
class Case:
    """A command line and how it ends.

    Args:
        status: of the process; a signal that ends it counts below 0, as for ``subprocess``.
        says: part of what is on standard error.
        signal: what the program gets.
        when: it gets it: as it begins to "load" the model, with the temporary folder of "offload" there, while it
            "compile"s the kernel, "busy" for good in native code, or when the ``screen`` says so.
        screen: what a terminal has to show, and what is typed then, by turns; at the end the signal is sent. Without it
            there is no terminal.
        process_1: it is the first process of a container, in which no signal has a default action.
        has_reader: somebody reads the output.
    """

    program: str
    arguments: tuple[str, ...]
    status: int
    says: str = ""
    signal: int = 0
    when: str = "load"
    screen: tuple[str, ...] = ()
    process_1: bool = False
    has_reader: bool = True


@dataclass(frozen=True)
class End:
    """How a program ended.

    Args:
        status: its exit status, a signal below 0; None if this machine cannot run it as process 1.
        out, errors: what it wrote; on a terminal both are ``out``.
        seconds: from the signal to the end.
        left: the files and processes that it has left behind.
    """

    status: int | None
    out: str
    errors: str
    seconds: float
    left: list[str]


DEMO = f"--model={DEMO_MODEL}"
WORKS = {
    "fill": ("a [MASK]", DEMO),
    "plan": (DEMO, "--gpus=24GB"),
    "conversion": ("quantize", str(DEMO_MODEL), "{tmp}/packed", "--quantize=int4"),
    "demo_recipe": ("evaluate", str(DEMO_MODEL), "--count=1"),
    "web": (DEMO, "--host=127.0.0.1", "--port=0"),
    "terminal": (DEMO, "--message=你好"),
}
# At the keyboard: what to wait for, what to type then, and so on.
SCREENS: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = [
    ("web", WORKS["web"], ("http://",)),
    ("terminal", (DEMO, "--language=en"), ("You: ",)),
    ("fill", (DEMO,), ("> ",)),
]
WRITING = ("You: ", "What can you do?\r", "GLM:")
CASES = [
    Case("glm_model", (), 0),
    Case("plan", (*FITS,), 0),
    *(Case(program, ("--help",), 0) for program in PROGRAMS if program != "evaluation"),
    # The work fails: 1 and a sentence.
    Case("fill", ("a [MASK]", f"--model={NOWHERE}"), 1, f"fill: there is no folder {NOWHERE}"),
    Case("fill", (f"--file={NOWHERE}",), 1, f"fill: cannot read {NOWHERE}"),
    Case("fill", ("a [MASK]", "--device=cuda:99"), 1, "fill: device 'cuda:99' is not there"),
    Case("plan", (f"--model={NOWHERE}", "--gpus=24GB"), 1, f"plan: '{NOWHERE}' is no folder"),
    Case("plan", ("--model=glm-130b", "--gpus=4x24GB", "--quantize-head"), 1, "plan: --quantize-head"),
    Case("conversion", ("quantize", NOWHERE, "{tmp}/made", "--quantize=int4"), 1, f"conversion: {NOWHERE}"),
    Case("conversion", ("sat", NOWHERE, "{tmp}/made"), 1, f"conversion: {NOWHERE}"),
    Case("evaluation", ("--model", "glm"), 1, "evaluation: lm-eval is not installed"),
    Case("demo_recipe", ("evaluate", NOWHERE), 1, f"demo_recipe: there is no folder {NOWHERE}"),
    Case("web", (f"--model={NOWHERE}", "--host=127.0.0.1", "--port=0"), 1, f"web_demo: there is no folder {NOWHERE}"),
    Case("terminal", (f"--model={NOWHERE}", "--message=x", "--language=en"), 1, f"there is no folder {NOWHERE}"),
    # The command line is wrong: 2 and a line.
    Case("glm_model", ("chat",), 2, "glm_model: unrecognized arguments: chat"),
    Case("fill", ("a [MASK]", "--top-p=2"), 2, "fill: argument --top-p: '2' is not a number from 0 (off) to 1"),
    Case("fill", ("a [MASK]", f"--file={NOWHERE}"), 2, "fill: give a TEXT or --file, not both"),
    Case("plan", ("--gpus=lots",), 2, "plan: argument --gpus: 'lots' names no GPUs"),
    Case("plan", (), 2, "plan: name the GPUs"),
    Case("conversion", ("quantize", NOWHERE, "{tmp}/made"), 2, "conversion quantize: one of the arguments --quantize"),
    Case("conversion", ("quantize", NOWHERE, "x", "--quantize=int2"), 2, "'int2' is not one of int8, int4"),
    Case("demo_recipe", (), 2, "demo_recipe: the following arguments are required: command"),
    Case("web", ("--port=65536",), 2, "web_demo.py: --port: '65536' is not a whole number from 0 to 65535"),
    Case("web", (f"--model={NOWHERE}", "--device=gpu"), 2, "web_demo.py: --device: 'gpu' is not auto, cpu, cuda"),
    Case("terminal", ("--temperature=hot",), 2, "cli_demo.py: --temperature: 'hot' is not a number"),
    Case("terminal", ("--device-map=auto", "--tensor-parallel=2"), 2, "use one or the other"),
    # Signals, which a program that is there to be stopped takes as a wish.
    *(
        Case(program, arguments, status, signal=number, process_1=process_1)
        for program, arguments in WORKS.items()
        for number, process_1, status in [
            (signal.SIGINT, False, 0 if program == "web" else 130),
            (signal.SIGTERM, False, 0 if program == "web" else -signal.SIGTERM),
            (signal.SIGTERM, True, 0 if program == "web" else 143),
        ]
    ),
    *(
        Case(program, arguments, 0, signal=number, screen=screen, process_1=process_1)
        for program, arguments, screen in SCREENS
        for number, process_1 in [(signal.SIGINT, False), (signal.SIGTERM, True)]
    ),
    # Ctrl-C stops an answer there, not the program.
    Case("terminal", (DEMO, "--language=en"), 0, signal=signal.SIGTERM, screen=WRITING, process_1=True),
    *(
        Case(program, (*arguments, option), status, signal=number, when=when)
        for when, option in (("offload", "--device-map=auto"), ("compile", "--quantize=int4"), ("busy", "--seed=1"))
        for program, arguments, number, status in [
            ("web", WORKS["web"], signal.SIGTERM, 0),
            ("fill", WORKS["fill"], signal.SIGTERM, -signal.SIGTERM),
            ("fill", WORKS["fill"], signal.SIGINT, 130),
        ]
    ),
    # Nobody reads: 1, and nobody needs a sentence.
    Case("plan", (*FITS,), 1, has_reader=False),
]

# A compiler is a chain of processes: this one's second is busy for a minute.
COMPILER = """#!/bin/sh
case "$*" in *--version) echo 'slow 1.0'; exit; esac
sleep 60 &
echo $! > "$COMPILER_LOG"
wait
"""


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, End]:
    """How each case ends."""
    folder = tmp_path_factory.mktemp("ends")
    compiler = folder / "compiler"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    cases = [
        {
            **asdict(case),
            "started": STARTED[case.program],
            "arguments": [argument.replace("{tmp}", str(folder)) for argument in case.arguments],
        }
        for case in CASES
    ]
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "starter.py", str(folder)],
        cwd=ROOT, input=json.dumps(cases), env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {case: End(**json.loads(line)) for case, line in zip(CASES, done.stdout.splitlines(), strict=True)}


def name_of(case: Case) -> str:
    given = " ".join(case.arguments).replace(str(DEMO_MODEL), "demo")
    sent = f"{signal.Signals(case.signal).name}-{case.when}" if case.signal else ""
    doing = "writing" if case.screen is WRITING else "waiting" if case.screen else ""
    process = "process-1" if case.process_1 else ""
    return " ".join(filter(None, [case.program, given, sent, doing, process, "" if case.has_reader else "unread"]))


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_program_ends_by_the_rule(case: Case, ends: dict[Case, End]) -> None:
    end = ends[case]
    if end.status is None:
        pytest.skip("no new PID namespace can be made here (root can)")
    assert end.status == case.status, end
    assert case.says in end.errors
    assert "Traceback" not in end.out + end.errors
    assert end.left == []
    assert end.seconds < 5, "a container is killed after ten"
    if case.status in (1, 2):
        assert end.out == ""
        assert end.errors.count("\n") == (1 if case.has_reader else 0), end.errors


@pytest.mark.parametrize("program", [program for program in PROGRAMS if program != "evaluation"])
def test_help_tells_the_rule(program: str, ends: dict[Case, End]) -> None:
    """lm-eval's own help is not ours to change."""
    shown = " ".join(ends[Case(program, ("--help",), 0)].out.split())
    assert "Exit status: 0" in shown
    assert "2 if the command line is wrong" in shown
    assert ("0 after Ctrl-C or SIGTERM" if program == "web" else "143 after SIGTERM") in shown


def test_every_program_is_tried_and_listed(ends: dict[Case, End]) -> None:
    folders = {path.parent.name for path in (ROOT / "glm_model").rglob("__main__.py")} | {"demo_recipe"}
    assert {*PROGRAMS} == folders | {"web", "terminal"}
    assert {case.program for case in CASES} == set(PROGRAMS)
    listed = ends[Case("glm_model", (), 0)].out
    for program in set(PROGRAMS) - {"glm_model", "demo_recipe"}:
        assert listed.count(f"{STARTED[program]} ") == 1


@pytest.mark.parametrize(
    ("raised", "status", "says"),
    [
        (None, 0, ""),
        (CheckpointError("the folder is damaged"), 1, "evaluation: the folder is damaged\n"),
        (FileNotFoundError(2, "No such file or directory", "tasks"), 1, "evaluation: tasks: No such file"),
        (MemoryError(), 1, "evaluation: out of memory\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 1, ""),
    ],
    ids=repr,
)
def test_what_lm_eval_raises(
    raised: BaseException | None,
    status: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def evaluate() -> None:
        if raised is not None:
            raise raised

    monkeypatch.setattr(evaluation, "find_spec", lambda name: True)
    command: Any = types.ModuleType("lm_eval.__main__")
    command.cli_evaluate = evaluate
    for module in (types.ModuleType("lm_eval"), command, types.ModuleType("glm_model.evaluation.harness")):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("glm_model.evaluation.harness", sys.modules["glm_model.evaluation.harness"], raising=False)
    assert evaluation.main() == status
    assert capsys.readouterr().err.startswith(says)
