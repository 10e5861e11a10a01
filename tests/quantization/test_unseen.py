"""The same rules on checkpoints that no set has: drawn shapes and weights, packed slowly, against the reference.

Every file is written by the tests alone; the model has to read it, and to make the same one from the float weights.
"""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from glm_model import GLMQuantizationConfig
from glm_model.quantization.linear import QuantizedWeight
from tests.checkpoints import write_json, write_weights
from tests.golden.data import assert_close
from tests.golden.models import published_name
from tests.quantization import rounding
from tests.reference import Shape, SpecialIds, Weights, chatglm_positions, context_mask, forward, random_weights

BLOCK_LAYERS = ("query_key_value.weight", "dense.weight", "dense_h_to_4h.weight", "dense_4h_to_h.weight")
EMBEDDING, HEAD = "transformer.word_embeddings.weight", "lm_head.weight"


@dataclass(frozen=True)
class Drawn:
    """A checkpoint in half, and what it becomes: stored tensors, and exact weights for the reference."""

    config: dict[str, Any]
    shape: Shape
    weights: Weights
    packed: Weights
    exact: Weights
    prompt: list[int]

    @property
    def logits(self) -> Tensor:
        special = SpecialIds(mask=self.config["mask_token_id"], gmask=self.config["gmask_token_id"], sop=self.sop)
        positions = chatglm_positions(self.prompt, special)[None]
        mask = context_mask(self.prompt, self.sop)[None, None]
        return forward(self.exact, self.shape, torch.tensor([self.prompt]), positions, mask).logits.float()

    @property
    def sop(self) -> int:
        return int(self.config["bos_token_id"])


def draw(seed: int) -> Drawn:
    chance = random.Random(seed)
    heads, vocab = chance.choice([1, 2, 3]), chance.randint(20, 40)
    hidden, inner = heads * 4 * chance.choice([1, 2, 3]), 2 * chance.randint(4, 20)
    tied, bits, embeddings = chance.random() < 0.5, chance.choice([4, 8]), chance.random() < 0.5
    shape = Shape(layers=chance.randint(1, 2), heads=heads, alpha=(2 * 28) ** 0.5)
    mask, gmask, sop, eop = chance.sample(range(vocab), 4)
    config = {
        "model_type": "chatglm",
        "vocab_size": vocab,
        "hidden_size": hidden,
        "inner_hidden_size": inner,
        "num_layers": shape.layers,
        "num_attention_heads": heads,
        "mask_token_id": mask,
        "gmask_token_id": gmask,
        "bos_token_id": sop,
        "eos_token_id": eop,
        "torch_dtype": "float16",
        "tie_word_embeddings": tied,
        "quantization_bit": bits,
        "quantization_embeddings": embeddings,
    }
    weights = random_weights(shape, hidden, inner, vocab, torch.Generator().manual_seed(seed), tied)
    weights = {name: value.half() for name, value in weights.items()}
    packed, exact = pack(weights, bits, embeddings)
    ordinary = [token for token in range(vocab) if token not in (mask, gmask, sop, eop)]
    prompt = [*chance.choices(ordinary, k=6), chance.choice([mask, gmask]), *chance.choices(ordinary, k=2), sop]
    return Drawn(config, shape, weights, packed, exact, prompt)


def pack(weights: Weights, bits: int, embeddings: bool) -> tuple[Weights, Weights]:
    stored, exact = {}, {}
    for name, value in weights.items():
        if name.endswith(BLOCK_LAYERS) or (embeddings and name in (EMBEDDING, HEAD)):
            stored[name], stored[f"{name}_scale"] = rounding.quantized(value, bits)
            exact[name] = rounding.dequantized(stored[name], stored[f"{name}_scale"], bits)
        else:
            stored[name], exact[name] = value, value.double()
    if HEAD not in weights:  # tied
        stored |= {name.replace(EMBEDDING, HEAD): stored[name] for name in list(stored) if name.startswith(EMBEDDING)}
    return stored, exact


@pytest.mark.parametrize("seed", range(12))
@torch.no_grad()
def test_drawn_checkpoints(seed: int, tmp_path: Path) -> None:
    drawn = draw(seed)
    (tmp_path / "packed").mkdir()
    write_json(tmp_path / "packed" / "config.json", drawn.config)
    write_weights(tmp_path / "packed", drawn.packed, "bin" if seed % 2 else "safetensors")
    read = AutoModel.from_pretrained(tmp_path / "packed").float().eval()
    assert_close(read(torch.tensor([drawn.prompt])).logits, drawn.logits)

    (tmp_path / "float").mkdir()
    write_json(tmp_path / "float" / "config.json", {**drawn.config, "quantization_bit": 0})
    write_weights(tmp_path / "float", drawn.weights, "safetensors" if seed % 2 else "bin")
    bits, embeddings = drawn.config["quantization_bit"], drawn.config["quantization_embeddings"]
    wanted = GLMQuantizationConfig(bits, embeddings)
    made = AutoModel.from_pretrained(tmp_path / "float", quantization_config=wanted, dtype=torch.float32).eval()
    assert torch.equal(made(torch.tensor([drawn.prompt])).logits, read(torch.tensor([drawn.prompt])).logits)
    for name, module in made.named_modules():
        if isinstance(module, QuantizedWeight):
            stored = published_name(f"{name}.weight")
            assert torch.equal(module.weight, drawn.packed[stored])
            assert torch.equal(module.weight_scale, drawn.packed[f"{stored}_scale"])
