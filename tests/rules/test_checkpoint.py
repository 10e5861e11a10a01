"""Published checkpoints: where each key belongs, which head counts, and what of a file does not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from glm_model import ChatGLMConfig, ChatGLMForCausalLM, GLM130BConfig
from tests.rules import tiny

EMBEDDING, HEAD = "transformer.word_embeddings.weight", "lm_head.weight"
LAYER = "transformer.layers.0."
# The published name of each parameter, and its place in the model.
PLACES = {
    EMBEDDING: "model.embed_tokens.weight",
    LAYER + "input_layernorm.weight": "model.layers.0.input_layernorm.weight",
    LAYER + "input_layernorm.bias": "model.layers.0.input_layernorm.bias",
    LAYER + "attention.query_key_value.weight": "model.layers.0.self_attn.query_key_value.weight",
    LAYER + "attention.query_key_value.bias": "model.layers.0.self_attn.query_key_value.bias",
    LAYER + "attention.dense.weight": "model.layers.0.self_attn.dense.weight",
    LAYER + "attention.dense.bias": "model.layers.0.self_attn.dense.bias",
    LAYER + "post_attention_layernorm.weight": "model.layers.0.post_attention_layernorm.weight",
    LAYER + "post_attention_layernorm.bias": "model.layers.0.post_attention_layernorm.bias",
    LAYER + "mlp.dense_h_to_4h.weight": "model.layers.0.mlp.dense_h_to_4h.weight",
    LAYER + "mlp.dense_h_to_4h.bias": "model.layers.0.mlp.dense_h_to_4h.bias",
    LAYER + "mlp.dense_4h_to_h.weight": "model.layers.0.mlp.dense_4h_to_h.weight",
    LAYER + "mlp.dense_4h_to_h.bias": "model.layers.0.mlp.dense_4h_to_h.bias",
    "transformer.final_layernorm.weight": "model.norm.weight",
    "transformer.final_layernorm.bias": "model.norm.bias",
}


def published(folder: Path, **fields: Any) -> dict[str, Tensor]:
    """Write a folder as published, its head unlike its embedding and its frequencies nonsense; return its tensors."""
    model = tiny.chatglm()
    tensors = {name: model.get_parameter(place).clone() for name, place in PLACES.items()}
    tensors[HEAD] = tensors[EMBEDDING] + 1
    tensors[LAYER + "attention.rotary_emb.inv_freq"] = torch.full((2,), 9.0).half()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    names = (
        "hidden_size num_layers num_attention_heads inner_hidden_size vocab_size bos_token_id eos_token_id "
        "mask_token_id gmask_token_id pad_token_id"
    )
    config = {name: getattr(model.config, name) for name in names.split()}
    config |= {"model_type": "chatglm", "architectures": ["ChatGLMModel"], "torch_dtype": "float32", **fields}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return tensors


def test_published_keys_land_where_they_belong(tmp_path: Path) -> None:
    tensors = published(tmp_path)
    model = ChatGLMForCausalLM.from_pretrained(tmp_path)
    for name, place in PLACES.items():
        assert torch.equal(model.get_parameter(place), tensors[name]), name


def test_published_frequencies_of_the_file_are_ignored(tmp_path: Path) -> None:
    published(tmp_path)
    frequencies = ChatGLMForCausalLM.from_pretrained(tmp_path).model.rotary_emb.inv_freq
    torch.testing.assert_close(frequencies, torch.tensor([1.0, 0.01]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("fields", [{}, {"tie_word_embeddings": True}])
def test_tied_head_is_the_embedding_and_not_the_head_of_the_file(tmp_path: Path, fields: dict[str, Any]) -> None:
    tensors = published(tmp_path, **fields)
    model = ChatGLMForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(model.lm_head.weight, tensors[EMBEDDING])
    assert torch.equal(model.model.embed_tokens.weight, tensors[EMBEDDING])


def test_untied_head_of_the_file_counts_where_the_configuration_says_so(tmp_path: Path) -> None:
    tensors = published(tmp_path, tie_word_embeddings=False)
    model = ChatGLMForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(model.lm_head.weight, tensors[HEAD])
    assert torch.equal(model.model.embed_tokens.weight, tensors[EMBEDDING])


def test_configuration_left_out_means_the_class_defaults_of_the_larger_vocabulary() -> None:
    """The published class's own defaults: a config.json before 2023-04-06 leaves the mask tokens out."""
    config = ChatGLMConfig()
    assert (config.mask_token_id, config.gmask_token_id) == (150000, 150001)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (150004, 150005, 0)
    assert (config.vocab_size, config.num_layers, config.hidden_size) == (150528, 28, 4096)
    assert config.use_cache is False


def test_configuration_of_glm130b_as_released() -> None:
    config = GLM130BConfig()
    assert (config.mask_token_id, config.gmask_token_id, config.smask_token_id) == (150000, 150001, 150002)
    assert (config.bos_token_id, config.eos_token_id) == (150004, [150005, 20002])
    assert (config.num_layers, config.hidden_size, config.num_attention_heads) == (70, 12288, 96)
    assert config.inner_hidden_size == 32768
