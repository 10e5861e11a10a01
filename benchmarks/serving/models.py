"""The models whose serving is measured, by the names that the tables give them."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from benchmarks.peers import files
from glm_model import DEMO_MODEL
from glm_model.checkpoint.configuration import read_config
from glm_model.kernels.dispatch import Precision
from glm_model.loading import load, set_precision

DEMO, FAST, EXACT = "demo", "fast", "exact"
MODELS = (DEMO, FAST, EXACT)
PACKED = (FAST, EXACT)


class Loaded(NamedTuple):
    """A model with its name in the tables, and its tokenizer."""

    name: str
    model: Any
    tokenizer: Any


def load_demo() -> Loaded:
    """Return the demo model in float32, which never ends an answer by itself."""
    return Loaded(DEMO, *_endless(*load(DEMO_MODEL, dtype="float32", device="cpu")))


def load_packed(names: list[str], folder: Path) -> Iterator[Loaded]:
    """Yield one model in several precisions, each with the cache that front-ends give it.

    Args:
        names: of :data:`PACKED`.
        folder: the model; a random one of ChatGLM-6B's shape in INT4 is written there if there is nothing, and a float
            model is packed.
    """
    if not names:
        return
    if not folder.exists():
        print(f"writing {folder}", file=sys.stderr)
        files.write_glm(folder)
    is_packed = bool(read_config(folder).quantization_bit)
    model, tokenizer = _endless(*load(folder, quantize=None if is_packed else "int4", dtype="float32", device="cpu"))
    for name in names:
        set_precision(model, cast(Precision, name))
        model.runtime.cache_dtype = torch.float16 if name == FAST else None
        yield Loaded(name, model, tokenizer)


def load_all(names: list[str], folder: Path) -> Iterator[Loaded]:
    """Yield the models of these names; see :func:`load_packed`."""
    if DEMO in names:
        yield load_demo()
    yield from load_packed([name for name in PACKED if name in names], folder)


def _endless(model: Any, tokenizer: Any) -> tuple[Any, Any]:
    """Let every answer have its full length, whatever the model says: no id ends it."""
    model.config.eos_token_id = model.generation_config.eos_token_id = model.config.vocab_size
    return model, tokenizer
