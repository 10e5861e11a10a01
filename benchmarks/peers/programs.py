"""How each program is told to read a prompt and to decode one more token. Runs in the program's own environment.

A program is opened with a path and a number of threads, takes ``prompt(ids)``, which returns when the first token of
the answer is there, and then ``token()`` for each further one. Some take ``prompt(ids, rows)``, a prompt of several
sequences, and then ``token(rows)``, a token of each of the first ones.
"""

import importlib
import os
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # this repository

END = (130001, 130004)  # [gMASK] and <sop>: the last two ids of every prompt
MOST_TOKENS = 1024  # of prompt and answer
ROOM = 64  # tokens of one of several answers
READINGS = 25  # of half a gigabyte each: a turn of decoding is about as long; one by one they vary by a third


class Glm:
    """This repository, started and decoding as its front-ends do."""

    def __init__(self, path: str, threads: int) -> None:
        with importlib.import_module("app.startup").collector_paused():
            self.torch: Any = importlib.import_module("torch")
            glm_model: Any = importlib.import_module("glm_model")
            self.torch.set_num_threads(threads)
            precision = os.environ.get("GLM_PRECISION", "fast")
            # Half precision as chatglm.cpp has it, and the original on a GPU.
            cache_dtype = None if precision == "exact" else "float16"
            self.model, _ = glm_model.load(path, precision=precision, cache_dtype=cache_dtype, device="cpu")
        self.ready_rows: Any = importlib.import_module("benchmarks.serving.rows").ReadyRows
        self.ready: Any = None

    def prompt(self, ids: list[int], rows: int = 1) -> None:
        if self.ready is not None:
            self.ready.leave()
        self.ready = self.ready_rows(self.model, self.torch.tensor([ids]), rows)

    def token(self, rows: int = 1) -> None:
        """Decode a token of each of the first rows, and take it back."""
        self.ready.step(rows)


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


class LlamaCpp:
    """llama.cpp, whose sequences have caches of their own, and one pass for a token of each."""

    def __init__(self, path: str, threads: int) -> None:
        self.library: Any = importlib.import_module("llama_cpp")
        self.numpy: Any = importlib.import_module("numpy")
        self.threads = threads
        self.model = self.library.llama_model_load_from_file(path.encode(), self.library.llama_model_default_params())
        self.words = self.library.llama_vocab_n_tokens(self.library.llama_model_get_vocab(self.model))
        self.rows = 0
        self.context: Any = None
        self.memory: Any = None
        self.batch: Any = None
        self._open(1, MOST_TOKENS)

    def prompt(self, ids: list[int], rows: int = 1) -> None:
        if rows > self.rows:
            self._open(rows, len(ids) + ROOM)
        self.library.llama_memory_clear(self.memory, True)
        (token,) = self._decode([(0, place, token) for place, token in enumerate(ids)], len(ids) - 1)
        for row in range(1, self.rows):
            self.library.llama_memory_seq_cp(self.memory, 0, row, -1, -1)
        self.length, self.tokens = len(ids), [token] * self.rows

    def token(self, rows: int = 1) -> None:
        """Decode a token of each sequence and take it back, as :class:`Glm` does."""
        self.tokens[:rows] = self._decode([(row, self.length, self.tokens[row]) for row in range(rows)], 0)
        for row in range(rows):
            self.library.llama_memory_seq_rm(self.memory, row, self.length, -1)

    def _open(self, rows: int, tokens: int) -> None:
        """Begin with so many empty sequences, each with room for so many tokens."""
        if self.context is not None:
            self.library.llama_batch_free(self.batch)
            self.library.llama_free(self.context)
        parameters = self.library.llama_context_default_params()
        parameters.n_ctx, parameters.n_seq_max = rows * tokens, rows
        parameters.n_threads = parameters.n_threads_batch = self.threads
        self.context = self.library.llama_init_from_model(self.model, parameters)
        self.memory = self.library.llama_get_memory(self.context)
        self.batch = self.library.llama_batch_init(max(rows, tokens), 0, 1)
        self.rows = rows

    def _decode(self, inputs: list[tuple[int, int, int]], first: int) -> list[int]:
        """Compute (sequence, position, token), and return the likeliest tokens after those from number `first` on."""
        self.batch.n_tokens = len(inputs)
        for place, (sequence, position, token) in enumerate(inputs):
            self.batch.token[place], self.batch.pos[place] = token, position
            self.batch.n_seq_id[place], self.batch.seq_id[place][0] = 1, sequence
            self.batch.logits[place] = place >= first
        if self.library.llama_decode(self.context, self.batch):
            raise RuntimeError("llama.cpp does not decode")
        pointers = [self.library.llama_get_logits_ith(self.context, place) for place in range(first, len(inputs))]
        return [int(self.numpy.ctypeslib.as_array(pointer, (self.words,)).argmax()) for pointer in pointers]


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
    "llama.cpp": LlamaCpp,
    "fastllm": Fastllm,
    "imports": Imports,
    "reader": Reader,
}
