"""How each program is told to read a prompt and to decode one more token. Runs in the program's own environment.

A program is opened with a path and a number of threads, takes ``prompt(ids)``, which returns when the first token of
the answer is there, and then ``token()`` for each further one.
"""

import importlib
import os
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # this repository

END = (130001, 130004)  # [gMASK] and <sop>: the last two ids of every prompt
MOST_TOKENS = 1024  # of an answer
READINGS = 25  # of half a gigabyte each: a turn of decoding is about as long; one by one they vary by a third


class Glm:
    """This repository, started and decoding as its front-ends do, with an answer for each number of rows at once."""

    def __init__(self, path: str, threads: int) -> None:
        with importlib.import_module("app.startup").collector_paused():
            self.torch: Any = importlib.import_module("torch")
            glm_model: Any = importlib.import_module("glm_model")
            self.torch.set_num_threads(threads)
            precision = os.environ.get("GLM_PRECISION", "fast")
            # Half precision as chatglm.cpp has it, and the original on a GPU.
            cache_dtype = None if precision == "exact" else "float16"
            self.model, _ = glm_model.load(path, precision=precision, cache_dtype=cache_dtype, device="cpu")
        self.batch: Any = importlib.import_module("glm_model.generation.passes").DecodingBatch(self.model)
        self.answers: dict[int, Any] = {}

    def prompt(self, ids: list[int], rows: int = 1) -> None:
        if rows in self.answers:
            self.batch.remove(self.answers.pop(rows)[0])
        prompts = self.torch.tensor([ids] * rows)
        positions = self.model.derive_position_ids(prompts, length=len(ids) + MOST_TOKENS)
        self.answers[rows] = self.batch.insert(prompts, positions)

    def token(self, rows: int = 1) -> None:
        group, logits = self.answers[rows]
        tokens = logits.argmax(-1)[:, None]
        self.answers[rows] = group, self.batch.step({group: tokens})[group][:, -1]


class ChatglmCpp:
    """chatglm.cpp; its number of threads is that of the CPUs it may run on."""

    def __init__(self, path: str, threads: int) -> None:
        library: Any = importlib.import_module("chatglm_cpp._C")
        self.pipeline = library.Pipeline(path)
        self.model = self.pipeline.model
        self.greedy = library.GenerationConfig(do_sample=False)

    def prompt(self, ids: list[int]) -> None:
        self.ids, self.context = ids, len(ids)
        self._next(0)

    def token(self) -> None:
        self._next(len(self.ids) - 1)

    def _next(self, cached: int) -> None:
        self.ids = [*self.ids, self.model.generate_next_token(self.ids, None, self.greedy, cached, self.context)]


class Fastllm:
    """fastllm; it decodes in a thread of its own, without being asked for the next token."""

    def __init__(self, path: str, threads: int) -> None:
        library: Any = importlib.import_module("ftllm.llm")
        self.native = library.fastllm_lib
        library.set_cpu_threads(threads)
        self.model = library.model(path)
        self.none = self.model.stop_token_ctypes(None)
        self.handle = None

    def prompt(self, ids: list[int]) -> None:
        ctypes: Any = importlib.import_module("ctypes")
        if self.handle is not None:
            self.native.abort_response_llm_model(self.model.model, self.handle)
        self.handle = self.native.launch_response_llm_model(
            *(self.model.model, len(ids), (ctypes.c_int * len(ids))(*ids), 1024, 0, False),
            *(ctypes.c_float(0.8), 1, ctypes.c_float(1), ctypes.c_float(1), False, *self.none),
        )
        self.token()

    def token(self) -> None:
        if self.native.fetch_response_llm_model(self.model.model, self.handle) < 0:
            raise RuntimeError("fastllm has ended its answer")


class Imports:
    """No program: what importing modules takes. Its path is their names."""

    def __init__(self, path: str, threads: int) -> None:
        for name in path.split(", "):
            importlib.import_module(name)

    def prompt(self, ids: list[int]) -> None:
        """Nothing: the imports were all."""


class Reader:
    """No program: how fast memory can be read."""

    def __init__(self, path: str, threads: int) -> None:
        torch: Any = importlib.import_module("torch")
        quantized_matmul: Any = importlib.import_module("benchmarks.quantized_matmul")
        torch.set_num_threads(threads)
        self.test = quantized_matmul.bandwidth_test(torch.randint(-(2**62), 2**62, (1 << 26,)).view(torch.int8))

    def read(self) -> float:
        """Bytes per second."""
        self.test()  # does not count: the threads have gone to sleep while others worked, and are slow to wake
        return statistics.median(self.test() for _ in range(READINGS)) * 1e9


PROGRAMS: dict[str, Any] = {
    "glm": Glm,
    "chatglm.cpp": ChatglmCpp,
    "fastllm": Fastllm,
    "imports": Imports,
    "reader": Reader,
}
