"""Small models of both architectures in folders, and what is asked of them, by one process and by several alike."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from glm_model import ChatGLMConfig, ChatGLMForCausalLM, GLM130BConfig, GLM130BForCausalLM
from glm_model.blank_filling import FillOptions, fill_blanks
from glm_model.quantization.quantizer import GLMQuantizationConfig

MASK, GMASK, SOP, EOP, EOS = 500, 501, 504, 505, 2
_SIZES = {
    "vocab_size": 512,
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_layers": 4,
    "inner_hidden_size": 320,
    "max_sequence_length": 128,
    "mask_token_id": MASK,
    "gmask_token_id": GMASK,
    "bos_token_id": SOP,
    "pad_token_id": 3,
}
# A prompt that fits, and one that is shorter and so padded in front.
PROMPTS = [[*range(10, 21), GMASK, SOP], [3, 3, 3, 3, 40, 41, MASK, 43, 44, 45, GMASK, 47, SOP]]
NEW_TOKENS = 5


class IntegerTokenizer:
    """A text is a list of ids."""

    def encode_text(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode_exact(self, token_ids: Sequence[int]) -> str:
        return " ".join(map(str, token_ids))


def _chatglm(**options: Any) -> ChatGLMForCausalLM:
    return ChatGLMForCausalLM(ChatGLMConfig(**_SIZES, eos_token_id=EOP, **options))


def _glm130b(**options: Any) -> GLM130BForCausalLM:
    return GLM130BForCausalLM(GLM130BConfig(**_SIZES, eos_token_id=[EOP, EOS], smask_token_id=502, **options))


def write_models(folder: Path) -> Iterator[str]:
    """Write every model that is tested, sharp enough that no two tokens are nearly as likely; yields their names."""
    made = {
        "chatglm": lambda: _chatglm(),
        "chatglm-int4": lambda: _chatglm().quantize(4),
        "chatglm-int8": lambda: _chatglm().quantize(8),
        "chatglm-int4-embeddings": lambda: _chatglm().quantize(4, quantize_embeddings=True),
        "chatglm-untied": lambda: _chatglm(tie_word_embeddings=False),
        "chatglm-prefix": lambda: _chatglm(pre_seq_len=5, prefix_projection=True),
        "glm130b": lambda: _glm130b(),
        "glm130b-int4": lambda: _glm130b().quantize(4),
    }
    for seed, (name, make) in enumerate(made.items()):
        torch.manual_seed(seed)
        model = make()
        _draw(model)
        model.save_pretrained(folder / name)
        yield name


@torch.no_grad()
def _draw(model: Any) -> None:
    """Biases and norms that are not what they start as, so that one added twice or left out shows."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            parameter.add_(torch.randn_like(parameter) * 0.2)
    embeddings = {model.get_input_embeddings(), model.get_output_embeddings()}
    for weight in {getattr(each, "weight_scale", each.weight) for each in embeddings}:
        weight.mul_(40)


def read(folder: Path, **options: Any) -> Any:
    """The model in float32; of ``chatglm+int4`` the one in ``chatglm``, packed on the way, ``+int4-head`` all of it."""
    name, _, extra = folder.name.partition("+")
    packing, _, head = extra.partition("-")
    if packing.startswith("int"):
        bits = int(packing.removeprefix("int"))
        options["quantization_config"] = GLMQuantizationConfig(bits, embeddings=bool(head))
    return AutoModelForCausalLM.from_pretrained(folder.with_name(name), dtype=torch.float32, **options).eval()


def ready(model: Any, folder: Path) -> Any:
    """What was read, with its embedding and head packed at last if its name ends in ``+head``."""
    return model.quantize_head() if folder.name.endswith("+head") else model


@torch.no_grad()
def ask(model: Any) -> dict[str, Any]:
    """What a model answers: scores of a padded batch, its greedy tokens, beams, a sampled answer, filled blanks."""
    ids = torch.tensor(PROMPTS)
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
    torch.manual_seed(7)
    beams = FillOptions(strategy="beam_search", max_length=15, num_beams=3, no_repeat_ngram_size=0)
    filled = fill_blanks(model, IntegerTokenizer(), "17 [MASK] 19 [MASK] 21", beams)
    return {
        "logits": model(ids).logits,
        "greedy": model.generate(ids, **settings).tolist(),
        "beams": model.generate(ids[:1], num_beams=3, **settings).tolist(),
        "sampled": model.generate(ids, do_sample=True, top_k=0, temperature=1.5, max_new_tokens=3).tolist(),
        "filled": [text.text for text in filled.texts],
        "parameters": model.num_parameters(),
    }
