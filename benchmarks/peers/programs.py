"""How each program is told to read a prompt and to decode one more token. Runs in the program's own environment.

A program is opened with a path and a number of threads, takes ``prompt(ids)``, which returns when the first token of
the answer is there, and then ``token()`` for each further one.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

END = (130001, 130004)  # [gMASK] and <sop>: the last two ids of every prompt


class Glm:
    """This repository."""

    def __init__(self, path: str, threads: int) -> None:
        sys.path.insert(0, str(Path(__file__).parents[2]))
        self.torch: Any = importlib.import_module("torch")
        glm_model: Any = importlib.import_module("glm_model")
        self.torch.set_num_threads(threads)
        self.model, _ = glm_model.load(path, precision=os.environ.get("GLM_PRECISION", "fast"))

    def prompt(self, ids: list[int]) -> None:
        self.ids, self.cache = self.torch.tensor([ids]), None
        self.token()

    def token(self) -> None:
        new = 1 if self.cache is not None else self.ids.shape[1]
        inputs = self.model.prepare_inputs_for_generation(
            self.ids, next_sequence_length=new, past_key_values=self.cache, use_cache=True
        )
        with self.torch.inference_mode():
            output = self.model(**{**inputs, "logits_to_keep": 1})
            self.ids = self.torch.cat([self.ids, output.logits[:, -1:].argmax(-1)], dim=1)
        self.cache = output.past_key_values


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


PROGRAMS: dict[str, Any] = {"glm": Glm, "chatglm.cpp": ChatglmCpp, "fastllm": Fastllm}
