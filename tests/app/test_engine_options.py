"""What an engine makes of the options: rows, memory, and the numbers of its cache."""

from pathlib import Path
from typing import Any

import pytest
import torch

from app.options import Options
from app.serving import memory
from app.serving.engine import Engine

TINY = str(Path(__file__).parents[1] / "data" / "golden" / "chatglm_tiny_chat")
FLOAT32_TOKEN = 28 * 2 * 32 * 4  # layers, keys and values, hidden size, bytes


def engine(**options: Any) -> Engine:
    return Engine.from_options(Options(model=TINY, device="cpu", **options))


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({}, None),
        ({"quantize": "int4"}, torch.float16),
        ({"quantize": "int8", "quantize_head": True}, torch.float16),
        ({"quantize": "int4", "precision": "exact"}, None),
        ({"quantize": "int4", "cache_dtype": "float32"}, torch.float32),
        ({"quantize": "int4", "dtype": "bfloat16"}, None),
        ({"cache_dtype": "bfloat16"}, torch.bfloat16),
    ],
    ids=str,
)
def test_the_cache_is_rounded_where_activations_are(options: dict[str, Any], dtype: torch.dtype | None) -> None:
    with engine(**options) as made:
        assert made._model.runtime.cache_dtype == dtype
        bytes_each = (dtype or made._model.model.activation_dtype).itemsize
        assert made.state.token_bytes == FLOAT32_TOKEN * bytes_each // 4


def test_rows_and_memory_are_those_of_the_options() -> None:
    with engine(max_rows=3, cache_gb=0.001) as made:
        state = made.state
    assert (state.most_rows, state.cache_tokens) == (3, 1_000_000 // FLOAT32_TOKEN)


def test_half_of_the_free_memory_is_for_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.serving.engine.free_bytes", lambda device: 100 * FLOAT32_TOKEN)
    with engine() as made:
        assert (made.state.most_rows, made.state.cache_tokens) == (32, 50)


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 1000),
        ({"memory.max": "max", "memory.current": "5"}, 1000),
        ({"memory.max": "700", "memory.current": "100"}, 600),
        ({"memory.max": "5000", "memory.current": "100"}, 1000),
        ({"memory.max": "100", "memory.current": "500"}, 0),
    ],
    ids=str,
)
def test_the_memory_of_a_container_counts(
    files: dict[str, str], free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="ascii")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    assert memory.free_bytes("cpu") == free
