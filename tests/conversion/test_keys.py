"""Published names and ours, both ways, by transformers' own rules and by hand."""

import pytest
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming

NAMES = {
    "transformer.word_embeddings.weight": "model.embed_tokens.weight",
    "transformer.layers.0.input_layernorm.weight": "model.layers.0.input_layernorm.weight",
    "transformer.layers.11.attention.query_key_value.bias": "model.layers.11.self_attn.query_key_value.bias",
    "transformer.layers.2.attention.dense.weight": "model.layers.2.self_attn.dense.weight",
    "transformer.layers.2.post_attention_layernorm.bias": "model.layers.2.post_attention_layernorm.bias",
    "transformer.layers.27.mlp.dense_h_to_4h.weight": "model.layers.27.mlp.dense_h_to_4h.weight",
    "transformer.layers.27.mlp.dense_4h_to_h.bias": "model.layers.27.mlp.dense_4h_to_h.bias",
    "transformer.final_layernorm.bias": "model.norm.bias",
    "transformer.prefix_encoder.embedding.weight": "model.prefix_encoder.embedding.weight",
    "transformer.prefix_encoder.trans.2.weight": "model.prefix_encoder.trans.2.weight",
    "lm_head.weight": "lm_head.weight",
}


def renamed(name: str, renamings: list[WeightRenaming]) -> str:
    for renaming in renamings:
        name, _ = renaming.rename_source_key(name)
    return name


@pytest.mark.parametrize("model_type", ["chatglm", "glm130b"])
@pytest.mark.parametrize(("published", "ours"), NAMES.items())
def test_both_ways(model_type: str, published: str, ours: str) -> None:
    renamings = get_checkpoint_conversion_mapping(model_type)
    assert renamings is not None
    assert renamed(published, renamings) == ours
    assert renamed(ours, [renaming.reverse_transform() for renaming in reversed(renamings)]) == published
