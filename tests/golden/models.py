"""The golden ChatGLM checkpoints as models, and which file of expected values belongs to which."""

from dataclasses import dataclass
from functools import cache, wraps
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.modeling_outputs import CausalLMOutputWithPast

from glm_model import ChatGLMForCausalLM
from glm_model.checkpoint.prefix import load_prefix
from tests.golden.data import ALPHAS, FP16, FP32, GOLDEN, PACKED, TUNED, expected


@dataclass(frozen=True)
class DataSet:
    """One file of expected values and how the model that has to reproduce it is made."""

    folder: str
    stem: str
    dtype: torch.dtype = torch.float32
    bound: float = 1e-5  # relative, of every float that the model computes

    def __str__(self) -> str:
        return f"{self.folder}-{self.stem}".replace("chatglm_tiny_", "").replace("/", "-")

    @property
    def score_bound(self) -> float:
        """Relative, of scores: the original went on in half after the logits, transformers goes on in float32."""
        return 1e-3 if self.dtype == torch.float16 else self.bound

    @property
    def values(self) -> dict[str, Tensor]:
        return expected(self.folder, self.stem)

    def model(self, **options: Any) -> ChatGLMForCausalLM:
        """The checkpoint in evaluation mode; shared between tests, which must leave it as it was."""
        if self.stem.endswith("alpha_num_layers"):
            options["deepnorm_alpha"] = ALPHAS["expected_alpha_num_layers"]
        return load(self.folder, self.dtype, **options)


@cache
def load(folder: str, dtype: torch.dtype = torch.float32, **options: Any) -> ChatGLMForCausalLM:
    """A golden checkpoint as its users load it: `from_pretrained`, then `.float()` or `.half()`."""
    if folder in TUNED:
        return with_prefix(folder, **options).to(dtype).eval()
    return ChatGLMForCausalLM.from_pretrained(GOLDEN / folder, **options).to(dtype).eval()


def with_prefix(folder: str, **options: Any) -> ChatGLMForCausalLM:
    """The float32 base model with a trained P-tuning prefix, which is all that such a folder holds."""
    model = ChatGLMForCausalLM.from_pretrained(GOLDEN / FP32, **options)
    load_prefix(model, GOLDEN / folder)
    return model


PLAIN_SETS = [
    *(DataSet(FP32, stem) for stem in ALPHAS),
    *(DataSet(FP16, stem.replace("expected", "expected_float32_compute")) for stem in ALPHAS),
]
TUNED_SETS = [DataSet(folder, stem) for folder in TUNED for stem in ALPHAS]
# Half rounds after every operation; only the original's own steps give the original's bits, and its tokens.
HALF_SETS = [DataSet(FP16, stem, torch.float16) for stem in ALPHAS]
# INT8 and INT4 weights; computed in float32.
PACKED_SETS = [DataSet(folder, stem) for folder in PACKED for stem in ALPHAS]
ALL_SETS = [*PLAIN_SETS, *TUNED_SETS, *HALF_SETS, *PACKED_SETS]


def published_name(name: str) -> str:
    """The key of a published checkpoint that a parameter of ChatGLMForCausalLM is stored under."""
    for inner, published in (
        ("model.", "transformer."),
        ("embed_tokens", "word_embeddings"),
        ("self_attn", "attention"),
        ("transformer.norm", "transformer.final_layernorm"),
    ):
        name = name.replace(inner, published)
    return name


def answering(model: Any, logits: Tensor, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The model, made to answer every pass with these logits [batch, vocabulary]."""

    @wraps(model.forward)
    def forward(*args: Any, **kwargs: Any) -> CausalLMOutputWithPast:
        return CausalLMOutputWithPast(logits=logits[:, None], past_key_values=kwargs.get("past_key_values"))

    monkeypatch.setattr(model, "forward", forward)
    return model
