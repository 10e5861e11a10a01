"""The golden GLM-130B, its tokenizer of integers, and small models of drawn weights."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from glm_model import GLM130BConfig, GLM130BForCausalLM
from glm_model.conversion.sat import read_sat_checkpoint
from tests.golden.data import GLM130B, GOLDEN

MASK, GMASK, SMASK, SOP, EOP, EOS = 500, 501, 502, 504, 505, 2
SPECIAL = {
    "mask_token_id": MASK,
    "gmask_token_id": GMASK,
    "smask_token_id": SMASK,
    "bos_token_id": SOP,
    "eos_token_id": [EOP, EOS],
    "pad_token_id": 0,
}
ENDS = [EOP, EOS]
LIMIT = 40  # tokens of prompt and answer in every golden run


class IntegerTokenizer:
    """That of the golden run: a text is a list of ids."""

    def encode_text(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode_exact(self, token_ids: Sequence[int]) -> str:
        return " ".join(map(str, token_ids))


@cache
def golden_model(dtype: torch.dtype = torch.float32) -> GLM130BForCausalLM:
    config, tensors = read_sat_checkpoint(GOLDEN / GLM130B / "tp1", GOLDEN / GLM130B / "model_config.json", **SPECIAL)
    model = GLM130BForCausalLM.from_pretrained(None, config=config, state_dict=tensors)
    return model.to(dtype).eval()


@cache
def drawn_model(seed: int, **options: Any) -> GLM130BForCausalLM:
    """Two layers of chance, sure enough of themselves to end now and then and to write a mask token now and then."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_layers": 2, "inner_hidden_size": 48, "vocab_size": 512}
    model = GLM130BForCausalLM(GLM130BConfig(**{**SPECIAL, **sizes, "max_sequence_length": 128, **options}))
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(40)
        model.model.embed_tokens.weight[SOP] = 0  # a sequence would repeat its last token
        model.model.embed_tokens.weight[ENDS] *= 1.5
    return model.eval()
