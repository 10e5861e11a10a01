"""Random 4-bit models of ChatGLM-6B's shape, each as the program that it is for wants its file.

Random integers take as long as trained ones. The scales are such that weights have a standard deviation of about 0.02.
"""

import json
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from safetensors.torch import save_file
from sentencepiece import sentencepiece_model_pb2

from glm_model import DEMO_MODEL

from .environments import python_of
from .shape import CONFIG, EOS, HEADS, HIDDEN, INNER, LAYERS, MASK, MAX_LENGTH, PAD, VOCABULARY, Tensor, tensors

SCALE = 0.02 / 4.6  # integers from -8 to 7 have a standard deviation of 4.6
_CHUNK = 1 << 24  # bytes made at a time


def vocabulary() -> bytes:
    """A SentencePiece model of the published size: the demo model's, with pieces that never occur put into it."""
    pieces = sentencepiece_model_pb2.ModelProto.FromString((DEMO_MODEL / "ice_text.model").read_bytes())
    first = next(number for number, piece in enumerate(pieces.pieces) if piece.piece == "[MASK]")
    special = list(pieces.pieces[first:])
    del pieces.pieces[first:]
    for number in range(MASK - first):
        pieces.pieces.add(piece=f"▁▁{number}", score=-1e4)
    pieces.pieces.extend(special)
    return bytes(pieces.SerializeToString())


def write_glm(folder: Path) -> None:
    """As chatglm-6b-int4-qe is published: everything packed, embedding and head in one tensor."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    weights: dict[str, torch.Tensor] = {}
    for name, shape, kind in tensors():
        if kind in ("linear", "embedding"):
            size = shape[0] * shape[1] // 2
            packed = np.concatenate(list(_random_bytes(random, size))).view(np.int8)
            weights[name] = torch.from_numpy(packed).view(shape[0], -1)
            weights[f"{name}_scale"] = torch.full(shape[:1], SCALE, dtype=torch.float16)
        else:
            weights[name] = torch.full(shape, float(kind == "norm"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = {**CONFIG, "quantization_bit": 4, "quantization_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "ice_text.model").write_bytes(vocabulary())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "ChatGLMTokenizer", "num_image_tokens": 0})
    )


def write_chatglm_cpp(path: Path) -> None:
    """chatglm.cpp's own format with q4_0 blocks (32 columns: a half scale and 16 bytes), see its convert.py."""
    float32, q4_0, chatglm = 0, 2, 1
    random = np.random.default_rng(0)
    proto = vocabulary()
    with _whole_file(path) as file:
        file.write(b"ggml" + struct.pack("<ii", chatglm, 2))
        sizes = (q4_0, VOCABULARY, HIDDEN, HEADS, HEADS, LAYERS, INNER)
        file.write(struct.pack("<7ififiii", *sizes, 1e-5, 0, 10000.0, MAX_LENGTH, EOS, PAD))
        file.write(struct.pack("<i", len(proto)) + proto)
        for name, shape, kind in tensors():
            packed = kind in ("linear", "embedding")
            file.write(struct.pack("<i", len(name)) + name.encode())
            file.write(struct.pack(f"<{len(shape) + 2}i", len(shape), *shape, q4_0 if packed else float32))
            file.write(bytes(-file.tell() % 16))
            if packed:
                for part in _random_bytes(random, shape[0] * shape[1] // 32 * 18):
                    part.reshape(-1, 18)[:, :2] = np.frombuffer(np.float16(SCALE).tobytes(), np.uint8)
                    file.write(part.data)
            else:
                file.write(np.full(shape, kind == "norm", np.float32).data)


def write_llama_cpp(path: Path) -> None:
    """GGUF with q4_0 blocks, by llama.cpp's own package; see write_gguf.py."""
    unfinished, script = path.with_suffix(".part"), Path(__file__).with_name("write_gguf.py")
    subprocess.run([python_of("llama.cpp", path.parent), str(script), str(unfinished)], check=True)
    unfinished.rename(path)


def write_fastllm(path: Path) -> None:
    """fastllm's .flm with rows of int4 (a minimum, a maximum, and bytes), see its torch2flm.py."""
    random = np.random.default_rng(0)
    described = {**CONFIG, "eos_token_id": VOCABULARY + 1, "tokenizer_use_score": 1}
    every = list(tensors())
    with _whole_file(path) as file:
        file.write(struct.pack("<ii", 2, len(described)))
        for key in sorted(described):
            for text in (key, str(described[key])):
                file.write(struct.pack("<i", len(text)) + text.encode())
        file.write(struct.pack("<ii", 0, len(every) + 1))  # no vocabulary: prompts are ids
        for tensor in [*every, Tensor("lm_head.weight", (VOCABULARY, HIDDEN), "linear")]:
            _write_fastllm_tensor(file, tensor, random)


def _write_fastllm_tensor(file: BinaryIO, tensor: Tensor, random: np.random.Generator) -> None:
    float32, int4 = 0, 8
    name, shape, kind = tensor
    file.write(struct.pack("<i", len(name)) + name.encode() + struct.pack(f"<{len(shape) + 1}i", len(shape), *shape))
    if kind == "linear":
        file.write(struct.pack("<ii", int4, 0))
        file.write(np.tile(np.array([-8 * SCALE, 7 * SCALE], np.float32), shape[0]).data)
        for part in _random_bytes(random, shape[0] * shape[1] // 2):
            file.write(part.data)
    elif kind == "embedding":
        file.write(struct.pack("<i", float32))
        for _ in range(shape[0]):
            file.write((random.standard_normal(shape[1], np.float32) * np.float32(0.02)).data)
    else:
        file.write(struct.pack("<i", float32))
        file.write(np.full(shape, kind == "norm", np.float32).data)


def _random_bytes(random: np.random.Generator, size: int) -> Iterator[np.ndarray]:
    """`size` bytes in parts, each of whole q4_0 blocks."""
    step = _CHUNK // 18 * 18
    for start in range(0, size, step):
        yield np.frombuffer(bytearray(random.bytes(min(step, size - start))), np.uint8)


WRITERS: dict[str, Callable[[Path], None]] = {
    "glm": write_glm,
    "chatglm.cpp": write_chatglm_cpp,
    "llama.cpp": write_llama_cpp,
    "fastllm": write_fastllm,
}


class _whole_file:  # noqa: N801  used like a function
    """A file that has its name once it is complete."""

    def __init__(self, path: Path) -> None:
        self._path, self._unfinished = path, path.with_suffix(".part")

    def __enter__(self) -> BinaryIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._unfinished.open("wb")
        return self._file

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if error is None:
            self._unfinished.rename(self._path)
