"""Archives of SwissArmyTransformer: the golden ones with their configuration, and small ones of drawn weights.

The rules of the cuts stand here a second time, as plainly as GLM-130B's tools/convert_tp.py has them.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glm_model.conversion.sat import MODEL_CONFIG
from glm_model.kernels.packing import quantize
from tests.golden.data import GLM130B, GOLDEN

# The README of the data set; the golden archives do not tell.
SPECIAL_TOKENS: dict[str, Any] = {
    "mask_token_id": 500,
    "gmask_token_id": 501,
    "smask_token_id": 502,
    "bos_token_id": 504,
    "eos_token_id": [505, 2],
    "pad_token_id": 0,
}
DESCRIPTION = GOLDEN / GLM130B / MODEL_CONFIG
EMBEDDING = "transformer.word_embeddings.weight"
PACKED = ("query_key_value.weight", "dense.weight", "dense_h_to_4h.weight", "dense_4h_to_h.weight")
SIZES = {"vocab_size": 48, "hidden_size": 16, "num_layers": 2, "num_attention_heads": 4, "inner_hidden_size": 24}
DRAWN_TOKENS = {
    "mask_token_id": 40,
    "gmask_token_id": 41,
    "smask_token_id": 42,
    "bos_token_id": 44,
    "eos_token_id": [45, 2],
    "pad_token_id": 0,
}


def write_description(folder: Path, **changes: Any) -> None:
    """What the golden archives lack, beside `latest` as SAT writes it."""
    content = {**json.loads(DESCRIPTION.read_text(encoding="utf-8")), **SPECIAL_TOKENS, **changes}
    kept = {name: value for name, value in content.items() if value is not None}
    (folder / MODEL_CONFIG).write_text(json.dumps(kept), encoding="utf-8")


def golden_archive(folder: Path, name: str = "tp1") -> Path:
    """A copy of a golden archive with its description."""
    shutil.copytree(GOLDEN / GLM130B / name, folder, copy_function=shutil.copyfile)
    write_description(folder)
    return folder


def rank_file(folder: Path, rank: int = 0) -> Path:
    step = (folder / "latest").read_text(encoding="utf-8").strip()
    return folder / step / f"mp_rank_{rank:02}_model_states.pt"


def rank_tensors(folder: Path, rank: int = 0) -> dict[str, Tensor]:
    content: dict[str, dict[str, Tensor]] = torch.load(rank_file(folder, rank), weights_only=True)
    return content["module"]


def change_rank(folder: Path, rank: int = 0, /, **tensors: Tensor | None) -> None:
    """Replace, add or (None) remove tensors of one rank; dots in their names are written `__`."""
    changed = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    content = {**rank_tensors(folder, rank), **changed}
    torch.save({"module": {k: v for k, v in content.items() if v is not None}}, rank_file(folder, rank))


def all_ranks(folder: Path) -> list[dict[str, Tensor]]:
    return [rank_tensors(folder, rank) for rank in range(len(list(rank_file(folder).parent.iterdir())))]


def drawn_weights(seed: int = 0, dtype: torch.dtype = torch.float16, /, **sizes: int) -> dict[str, Tensor]:
    """Whole tensors by their names, without `inv_freq`."""
    size = {**SIZES, **sizes}
    hidden, inner = size["hidden_size"], size["inner_hidden_size"]
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (size["vocab_size"], hidden)}
    for layer in range(size["num_layers"]):
        start = f"transformer.layers.{layer}."
        shapes |= {f"{start}input_layernorm.weight": (hidden,), f"{start}input_layernorm.bias": (hidden,)}
        for name, rows, columns in (
            ("attention.query_key_value", 3 * hidden, hidden),
            ("attention.dense", hidden, hidden),
            ("mlp.dense_4h_to_h", hidden, inner),
            ("mlp.dense_h_to_4h", 2 * inner, hidden),
        ):
            shapes |= {f"{start}{name}.weight": (rows, columns), f"{start}{name}.bias": (rows,)}
        norm = f"{start}post_attention_layernorm"
        shapes |= {f"{norm}.weight": (hidden,), f"{norm}.bias": (hidden,)}
    shapes |= {"transformer.final_layernorm.weight": (hidden,), "transformer.final_layernorm.bias": (hidden,)}
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def write_archive(folder: Path, weights: dict[str, Tensor], ranks: int = 1, bits: int = 0, **described: Any) -> Path:
    """`weights` cut, then quantized on each rank, with `latest` and a description beside it."""
    (folder / "300").mkdir(parents=True)
    (folder / "latest").write_text("300\n", encoding="utf-8")
    for rank in range(ranks):
        parts: dict[str, Tensor] = {}
        for name, tensor in weights.items():
            part = cut(name, tensor, ranks, rank)
            if bits and name.endswith(PACKED):
                parts[name], parts[f"{name}_scale"] = quantize(part, bits)
            else:
                parts[name] = part.clone()
        torch.save({"module": parts}, rank_file(folder, rank))
    content = {**SIZES, **DRAWN_TOKENS, "max_sequence_length": 64, **described}
    (folder / MODEL_CONFIG).write_text(json.dumps(content), encoding="utf-8")
    return folder


def cut(name: str, tensor: Tensor, ranks: int, rank: int) -> Tensor:
    """One rank's part of a whole tensor."""
    if "layernorm" in name or name.endswith(("dense.bias", "dense_4h_to_h.bias")):
        return tensor
    if name.endswith(("dense.weight", "dense_4h_to_h.weight")):
        width = tensor.shape[1] // ranks
        return tensor[:, rank * width : (rank + 1) * width]
    if "dense_h_to_4h" in name:
        half, height = len(tensor) // 2, len(tensor) // 2 // ranks
        rows = [*range(rank * height, (rank + 1) * height)]
        return tensor[rows + [half + row for row in rows]]
    height = len(tensor) // ranks
    return tensor[rank * height : (rank + 1) * height]
