"""A random model for llama.cpp in q4_0: ``python write_gguf.py PATH``, in an environment that has ``gguf``.

Its architecture is LLaMA's, which llama.cpp knows best, with as many weights as ChatGLM-6B has: the three matrices of
LLaMA's feed-forward layer together are as large as GLM's two.
"""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # this repository

from benchmarks.peers.shape import HEADS, HIDDEN, INNER, LAYERS, MAX_LENGTH, VOCABULARY

BLOCK, BLOCK_BYTES = 32, 18  # q4_0: a half scale, then 16 bytes
THIRDS = 2 * INNER // 3 // BLOCK * BLOCK  # columns of the feed-forward layer; 0.1% less than as many weights
SCALE = 0.02 / 4.6  # as in files.py


def main() -> None:
    """Write the file."""
    gguf: Any = importlib.import_module("gguf")
    kinds = gguf.GGMLQuantizationType
    writer = gguf.GGUFWriter(sys.argv[1], "llama")
    writer.add_context_length(MAX_LENGTH)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(THIRDS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("none")  # prompts are ids
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    for name, shape in tensors():
        stored = stored_shape(shape)
        dtype, kind = (np.float32, kinds.F32) if len(shape) == 1 else (np.uint8, kinds.Q4_0)
        size = int(np.prod(stored)) * np.dtype(dtype).itemsize
        writer.add_tensor_info(name, stored, np.dtype(dtype), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    random = np.random.default_rng(0)
    for _, shape in tensors():
        writer.write_tensor_data(values(shape, random))
    writer.close()


def tensors() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and the shape of each tensor; those of one dimension are the weights of norms."""
    yield "token_embd.weight", (VOCABULARY, HIDDEN)  # only looked up; the head is a tensor of its own
    for number in range(LAYERS):
        layer = f"blk.{number}"
        yield f"{layer}.attn_norm.weight", (HIDDEN,)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield f"{layer}.{name}.weight", (HIDDEN, HIDDEN)
        yield f"{layer}.ffn_norm.weight", (HIDDEN,)
        yield f"{layer}.ffn_gate.weight", (THIRDS, HIDDEN)
        yield f"{layer}.ffn_up.weight", (THIRDS, HIDDEN)
        yield f"{layer}.ffn_down.weight", (HIDDEN, THIRDS)
    yield "output_norm.weight", (HIDDEN,)
    yield "output.weight", (VOCABULARY, HIDDEN)


def stored_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape in bytes of a packed matrix, and that of a norm as it is."""
    return shape if len(shape) == 1 else (shape[0], shape[1] // BLOCK * BLOCK_BYTES)


def values(shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Return random blocks with one scale for all, or the ones of a norm that does nothing."""
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    rows, row_bytes = stored_shape(shape)
    blocks = np.frombuffer(bytearray(random.bytes(rows * row_bytes)), np.uint8).reshape(-1, BLOCK_BYTES)
    blocks[:, :2] = np.frombuffer(np.float16(SCALE).tobytes(), np.uint8)
    return blocks.reshape(rows, row_bytes)


if __name__ == "__main__":
    main()
