"""Sizes of the published models, fields that a config.json leaves out, and values that make no model."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from glm_model import ChatGLMConfig, ChatGLMForCausalLM, GLM130BConfig, GLM130BForCausalLM
from glm_model.errors import UnsupportedError
from glm_model.loading import DEMO_MODEL

SMALL = {"vocab_size": 80, "hidden_size": 16, "num_layers": 2, "num_attention_heads": 2, "inner_hidden_size": 24}


def on_meta(config: PreTrainedConfig) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def parameters_by_formula(hidden: int, layers: int, inner: int, vocabulary: int, gated: bool) -> int:
    """Embedding (also the head), attention, MLP and norms, written out."""
    attention = 4 * hidden * hidden + 4 * hidden
    first = 2 * inner if gated else inner
    mlp = first * hidden + first + hidden * inner + hidden
    return vocabulary * hidden + layers * (attention + mlp + 2 * 2 * hidden) + 2 * hidden


def test_chatglm_6b_has_6_17_billion_parameters() -> None:
    model = on_meta(ChatGLMConfig.preset("chatglm-6b"))
    assert isinstance(model, ChatGLMForCausalLM)
    assert model.num_parameters() == parameters_by_formula(4096, 28, 16384, 130528, gated=False)
    assert f"{model.num_parameters() / 1e9:.2f}" == "6.17"


def test_the_first_vocabulary_of_chatglm_6b_adds_its_image_tokens() -> None:
    old, new = (on_meta(ChatGLMConfig.preset(name)) for name in ("chatglm-6b-v0", "chatglm-6b"))
    assert old.num_parameters() - new.num_parameters() == 20000 * 4096
    for name in ("bos_token_id", "eos_token_id", "mask_token_id", "gmask_token_id", "pad_token_id"):
        assert getattr(old.config, name) - getattr(new.config, name) == 20000


def test_glm_130b_has_130_billion_parameters() -> None:
    model = on_meta(GLM130BConfig.preset("glm-130b"))
    assert isinstance(model, GLM130BForCausalLM)
    assert model.num_parameters() == parameters_by_formula(12288, 70, 32768, 150528, gated=True)
    assert round(model.num_parameters() / 1e10) == 13


def test_an_untied_head_counts_once_more() -> None:
    tied, untied = (
        on_meta(ChatGLMConfig.preset("chatglm-6b", tie_word_embeddings=tied)).num_parameters() for tied in (True, False)
    )
    assert untied - tied == 130528 * 4096


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"chatglm-6b.*chatglm-6b-v0"):
        ChatGLMConfig.preset("chatglm2-6b")


def test_the_residual_factor_of_the_originals() -> None:
    """ChatGLM's is that of 28 layers whatever the number; GLM-130B's follows it; a field overrules both."""
    assert ChatGLMConfig(num_layers=3).residual_alpha == math.sqrt(56)
    assert GLM130BConfig(num_layers=3).residual_alpha == math.sqrt(6)
    assert ChatGLMConfig(deepnorm_alpha=2).residual_alpha == 2.0
    assert GLM130BConfig(num_layers=3, deepnorm_alpha=1.5).residual_alpha == 1.5


def test_what_an_old_config_json_leaves_out() -> None:
    """The first weeks' files had no ids of masks and padding; the published class filled them in."""
    config = ChatGLMConfig.from_dict({"model_type": "chatglm", "num_layers": 28})
    assert (config.vocab_size, config.mask_token_id, config.gmask_token_id) == (150528, 150000, 150001)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (150004, 150005, 0)
    assert config.use_cache is False


def test_the_names_of_the_library_mean_the_published_fields() -> None:
    config = ChatGLMConfig(num_hidden_layers=5, intermediate_size=99)
    assert (config.num_layers, config.inner_hidden_size) == (5, 99)
    assert config.num_hidden_layers == 5
    assert config.max_position_embeddings == config.max_sequence_length == 2048
    assert "num_hidden_layers" not in config.to_dict()


@pytest.mark.parametrize("kind", [ChatGLMConfig, GLM130BConfig])
def test_saved_and_read_again(kind: type[PreTrainedConfig], tmp_path: Path) -> None:
    config = kind(**SMALL, deepnorm_alpha=3.0, rotary_dtype="float32")
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert type(again) is kind
    assert again.to_diff_dict() == config.to_diff_dict()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 17}, "hidden_size 17.*num_attention_heads 2"),
        ({"hidden_size": 12}, "a head of 6"),
        ({"quantization_bit": 3}, "quantization_bit"),
        ({"vocab_size": "80"}, "vocab_size"),
        ({"rotary_dtype": "float64"}, "rotary_dtype"),
    ],
    ids=str,
)
def test_values_that_make_no_model(fields: dict[str, Any], message: str) -> None:
    """transformers validates configurations as huggingface_hub's strict dataclasses, with their errors."""
    with pytest.raises(StrictDataclassError, match=message):
        ChatGLMConfig(**{**SMALL, **fields})


@pytest.mark.parametrize("fields", [{"multi_query_attention": True}, {"ffn_hidden_size": 13696}, {"rmsnorm": True}])
def test_later_generations_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match="ChatGLM2-6B or ChatGLM3-6B"):
        ChatGLMConfig.from_dict({"model_type": "chatglm", **fields})


def test_the_demo_preset_is_the_embedded_model() -> None:
    embedded = ChatGLMConfig.from_pretrained(DEMO_MODEL).to_dict()
    preset = ChatGLMConfig.preset("demo").to_dict()
    from_the_file = {"architectures", "dtype", "transformers_version", "_name_or_path"}
    assert {k: v for k, v in preset.items() if k not in from_the_file} == {
        k: v for k, v in embedded.items() if k not in from_the_file
    }
