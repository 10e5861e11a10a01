"""What an engine makes of the options: rows, memory, and the numbers of its cache."""

from pathlib import Path
from typing import Any

import pytest
import torch

from app.options import Options
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
