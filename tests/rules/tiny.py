"""Models of a few dozen weights, and the ids of their special tokens. What a rule's test needs of a model."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from glm_model import ChatGLMConfig, ChatGLMForCausalLM, GLM130BConfig, GLM130BForCausalLM

PAD, END, MASK, GMASK, SMASK, SOP, EOP = 3, 20, 21, 22, 23, 24, 25
VOCABULARY = 26
M = TypeVar("M", bound=torch.nn.Module)
_SPECIAL: dict[str, Any] = {
    "bos_token_id": SOP,
    "mask_token_id": MASK,
    "gmask_token_id": GMASK,
    "pad_token_id": PAD,
    "vocab_size": VOCABULARY,
}
_SIZES: dict[str, Any] = {"hidden_size": 16, "num_layers": 1, "num_attention_heads": 2, "inner_hidden_size": 12}


def chatglm_config(**fields: Any) -> ChatGLMConfig:
    return ChatGLMConfig(**{**_SIZES, **_SPECIAL, "eos_token_id": EOP, "use_cache": True, **fields})


def glm130b_config(**fields: Any) -> GLM130BConfig:
    return GLM130BConfig(**{**_SIZES, **_SPECIAL, "eos_token_id": [EOP, END], "smask_token_id": SMASK, **fields})


def chatglm(**fields: Any) -> ChatGLMForCausalLM:
    """A ChatGLM-6B of random weights, in evaluation mode."""
    return drawn(ChatGLMForCausalLM(chatglm_config(**fields)))


def glm130b(**fields: Any) -> GLM130BForCausalLM:
    """A GLM-130B of random weights, in evaluation mode."""
    return drawn(GLM130BForCausalLM(glm130b_config(**fields)))


def drawn(module: M, seed: int = 0) -> M:
    """Draw all float parameters anew, so large that every rule shows in the results, and freeze them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5, generator=generator)
    return module.eval().requires_grad_(False)


def assert_near(actual: Tensor, wanted: Tensor, atol: float = 1e-5, rtol: float = 1e-4) -> None:
    """Two tensors of one dtype are the same but for the order of float32 sums."""
    torch.testing.assert_close(actual, wanted, atol=atol, rtol=rtol)


def ids(*rows: Sequence[int]) -> Tensor:
    """LongTensor [rows, length]."""
    return torch.tensor([list(row) for row in rows])


def scripted(model: Any, passes: Sequence[Tensor | int]) -> list[int]:
    """Let the head of a model say what is written here, whatever the rest of it computes.

    Args:
        passes: for each pass the scores of the next token, [vocabulary], or the one token that is to be chosen.

    Returns:
        A list that gets an entry at every pass: how many passes there have been.
    """
    seen: list[int] = []

    def say(_module: Any, _inputs: Any, logits: Tensor) -> Tensor:
        wanted = passes[len(seen)]
        seen.append(len(seen) + 1)
        if isinstance(wanted, int):
            wanted = torch.full(logits.shape[-1:], -50.0).index_fill(0, torch.tensor(wanted), 50.0)
        return wanted.to(logits.dtype).expand_as(logits)

    model.lm_head.register_forward_hook(say)
    return seen
