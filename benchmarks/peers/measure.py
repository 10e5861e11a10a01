"""What is measured: each part yields its rounds one by one, a round being {row of the table: {figure: value}}.

Imports no torch: memory that this process maps would stay in the page cache when a cold start is to be measured.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from .environments import python_of
from .process import Process
from .shape import packed_bytes

Round = dict[str, dict[str, float]]

MODELS = {"glm": "glm", "chatglm.cpp": "chatglm_cpp.bin", "llama.cpp": "llama_cpp.gguf", "fastllm": "fastllm.flm"}
TAKING_ROWS = ("glm", "llama.cpp")
WITHOUT_COMPILER = "glm without compiler"
# Rows of the table: the program, and what its environment says.
VARIANTS: dict[str, tuple[str, dict[str, str]]] = {
    "glm": ("glm", {}),
    "glm exact": ("glm", {"GLM_PRECISION": "exact"}),
    WITHOUT_COMPILER: ("glm", {"GLM_KERNEL": "onnxruntime"}),
    "glm avx2": ("glm", {"GLM_INSTRUCTIONS": "avx2"}),
    "chatglm.cpp": ("chatglm.cpp", {}),
    "llama.cpp": ("llama.cpp", {}),
    "fastllm": ("fastllm", {}),
}
# transformers imports most of itself when it is first used; glm_model uses what loading a model needs.
IMPORTS = ("import torch, transformers", "import glm_model")
START_PROMPT = 16
WARM_UP_PROMPT = 64
ROWS_CONTEXT = 64
ROWS = (1, 8, 16, 32)
ROUNDS_OF_A_PROMPT = {64: 1, 512: 3}  # rounds of decoding after each prompt: long ones take the others half a minute


@dataclass(frozen=True)
class Setting:
    """What all parts have in common.

    Attributes:
        folder: of models and environments.
        programs: keys of :data:`VARIANTS`.
        threads: how many CPUs a program may use; all but fastllm have as many threads.
        fastllm_threads: its threads.
        rounds: how often everything is measured.
        tokens: how many are decoded in a round.
    """

    folder: Path
    programs: list[str]
    threads: int
    fastllm_threads: int
    rounds: int
    tokens: int


def measure_start(setting: Setting) -> Iterator[Round]:
    """From the start of a process to its first token: one round cold, the others warm."""
    for number in range(setting.rounds + 1):
        measured: dict[str, float] = {}
        for name in (*IMPORTS, *setting.programs):
            if number == 0:
                forget(name, setting)
            with open_program(name, setting) as process:
                process.ask(prompt=START_PROMPT)
                measured[label(name, setting)] = time.perf_counter() - process.started
        if "chatglm.cpp" in measured:
            for name in IMPORTS:
                measured[f"chatglm.cpp + {name}"] = measured["chatglm.cpp"] + measured[name]
        yield {name: {"warm_s" if number else "cold_s": seconds} for name, seconds in measured.items()}


def measure_context(context: int, setting: Setting) -> Iterator[Round]:
    """Prompts of this length and decoding after them, in turns."""
    with ExitStack() as stack:
        processes = {name: stack.enter_context(open_program(name, setting)) for name in setting.programs}
        reader = stack.enter_context(open_program("reader", setting))
        for process in processes.values():
            process.ask(prompt=WARM_UP_PROMPT)  # pages and threads are new
        for number in range(setting.rounds):
            measured: Round = {}
            bandwidths = []
            for name, process in processes.items():
                figures: dict[str, float] = {}
                if number % ROUNDS_OF_A_PROMPT[context] == 0:
                    figures["prompt_s"] = process.ask(prompt=context)["seconds"]
                bandwidths.append(reader.ask(read=True)["bytes_per_second"])
                figures["decode_s"] = statistics.median(process.ask(decode=setting.tokens)["seconds"])
                if VARIANTS[name][0] == "glm":
                    figures["share"] = packed_bytes() / figures["decode_s"] / bandwidths[-1]
                measured[label(name, setting)] = {**figures, **process.ask(memory=True)}
            yield {"memory": {"bytes_per_second": statistics.median(bandwidths)}, **measured}


def measure_rows(setting: Setting) -> Iterator[Round]:
    """A token of several sequences at once, by the programs that can; they take turns at each number."""
    names = [name for name in setting.programs if VARIANTS[name][0] in TAKING_ROWS]
    with ExitStack() as stack:
        processes = {name: stack.enter_context(open_program(name, setting)) for name in names}
        for process in processes.values():
            process.ask(prompt=ROWS_CONTEXT, rows=max(ROWS))
        for _ in range(setting.rounds):
            measured: Round = {label(name, setting): {} for name in names}
            for rows in ROWS:
                for name, process in processes.items():
                    taken = process.ask(decode=setting.tokens, rows=rows)["seconds"]
                    measured[label(name, setting)][f"rows_{rows}_s"] = statistics.median(taken)
            yield measured


PARTS: dict[str, Callable[[Setting], Iterator[Round]]] = {
    "start": measure_start,
    "64": lambda setting: measure_context(64, setting),
    "512": lambda setting: measure_context(512, setting),
    "rows": measure_rows,
}


def label(name: str, setting: Setting) -> str:
    """The row of the table for a program."""
    return f"fastllm, {setting.fastllm_threads} threads" if name == "fastllm" else name


def open_program(name: str, setting: Setting) -> Process:
    """A process that has its model loaded, if it is one of :data:`VARIANTS`, or else its modules."""
    if name in IMPORTS:
        return Process("imports", sys.executable, name.removeprefix("import "), setting.threads, setting.threads)
    if name == "reader":
        return Process("reader", sys.executable, "", setting.threads, setting.threads)
    program, environment = VARIANTS[name]
    python, path = python_of(program, setting.folder), model_of(program, setting.folder)
    threads = setting.fastllm_threads if program == "fastllm" else setting.threads
    return Process(program, python, str(path), setting.threads, threads, **environment)


def model_of(program: str, folder: Path) -> Path:
    """Its file or folder, written if need be."""
    path = folder / MODELS[program]
    if not path.exists():
        from . import files  # with torch

        print(f"writing {path}", file=sys.stderr)
        files.WRITERS[program](path)
    return path


def forget(name: str, setting: Setting) -> None:
    """Take a program's model and the packages of its interpreter out of the page cache.

    The pages of a file that another process has mapped stay there.
    """
    program = VARIANTS[name][0] if name in VARIANTS else "glm"
    python = Path(python_of(program, setting.folder))
    forgotten = [model_of(program, setting.folder), *(python.parents[1] / "lib").glob("python*/site-packages")]
    os.sync()
    for folder in forgotten:
        for path in [folder, *folder.rglob("*")]:
            if path.is_file():
                _drop(path)


def _drop(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
