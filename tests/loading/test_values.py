"""The numbers of a file reach the model exactly, whatever the file's kind, and come back as they were."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel

from glm_model import (
    ChatGLMConfig,
    ChatGLMForCausalLM,
    ChatGLMModel,
    CheckpointError,
    GLM130BConfig,
    GLM130BForCausalLM,
    GLMQuantizationConfig,
    load,
)
from tests.checkpoints import FILES, write_json, write_weights
from tests.golden.models import published_name
from tests.loading.conftest import Checkpoint


def by_published_name(model: ChatGLMForCausalLM) -> dict[str, Tensor]:
    return {published_name(name): value for name, value in model.named_parameters()}


def assert_same(first: ChatGLMForCausalLM, second: ChatGLMForCausalLM) -> None:
    ours, others = first.state_dict(), second.state_dict()
    assert ours.keys() == others.keys()
    for name, value in ours.items():
        assert value.dtype == others[name].dtype
        assert torch.equal(value, others[name]), name


@pytest.mark.parametrize(("file_format", "shards"), FILES)
def test_as_stored(checkpoint: Checkpoint, file_format: str, shards: int) -> None:
    """Linear layers stay half and LayerNorm float32; frequencies in the file are ignored, even wrong ones."""
    for name in checkpoint.tensors:
        if name.endswith("inv_freq"):
            checkpoint.tensors[name].fill_(float("nan"))
    checkpoint.write(file_format, shards)
    model = AutoModel.from_pretrained(checkpoint.folder)
    for name, value in by_published_name(model).items():
        assert value.dtype == checkpoint.tensors[name].dtype
        assert torch.equal(value, checkpoint.tensors[name]), name
    assert model.model.rotary_emb.inv_freq.isfinite().all()
    assert not model.training


def test_the_file_that_was_asked_for(checkpoint: Checkpoint) -> None:
    name = "transformer.final_layernorm.bias"
    values = {}
    for file_format in ("safetensors", "bin"):
        checkpoint.tensors[name] = checkpoint.tensors[name] + 1
        write_weights(checkpoint.folder, checkpoint.tensors, file_format)
        values[file_format] = checkpoint.tensors[name]
    (checkpoint.folder / "model.fp16.safetensors").write_bytes((checkpoint.folder / "model.safetensors").read_bytes())
    folder = checkpoint.folder
    for options, file_format in (
        ({}, "safetensors"),
        ({"use_safetensors": True}, "safetensors"),
        ({"use_safetensors": False}, "bin"),
        ({"variant": "fp16"}, "safetensors"),
    ):
        assert torch.equal(AutoModel.from_pretrained(folder, **options).model.norm.bias, values[file_format])
    within = AutoModel.from_pretrained(folder.parent, subfolder=folder.name, use_safetensors=False)
    assert torch.equal(within.model.norm.bias, values["bin"])


@pytest.mark.parametrize("quantize", [False, True])
def test_a_subfolder(checkpoint: Checkpoint, quantize: bool) -> None:
    root, name = checkpoint.folder.parent, checkpoint.folder.name
    options = {"quantization_config": GLMQuantizationConfig(8)} if quantize else {}
    wanted = ChatGLMForCausalLM.from_pretrained(checkpoint.folder, **options).state_dict()
    within = ChatGLMForCausalLM.from_pretrained(root, subfolder=name, **options).state_dict()
    without = ChatGLMForCausalLM.from_pretrained(checkpoint.folder, subfolder=None, **options).state_dict()
    for found in (within, without):
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_a_configuration_by_its_path(checkpoint: Checkpoint, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_json(elsewhere / "config.json", {**checkpoint.config, "layernorm_epsilon": 0.5})
    for config in (elsewhere, str(elsewhere), elsewhere / "config.json", str(elsewhere / "config.json")):
        model = ChatGLMForCausalLM.from_pretrained(checkpoint.folder, config=config)
        assert model.config.layernorm_epsilon == 0.5


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"quantization_bit": 8}, "quantization_bit 8"), ({"model_type": "llama"}, "says model_type 'llama'")],
)
def test_a_configuration_by_its_path_is_checked(
    checkpoint: Checkpoint, tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    write_json(tmp_path / "config.json", {**checkpoint.config, **fields})
    with pytest.raises(CheckpointError, match=words):
        ChatGLMForCausalLM.from_pretrained(checkpoint.folder, config=tmp_path)


def test_layer_norm_in_half(checkpoint: Checkpoint) -> None:
    for name, value in checkpoint.tensors.items():
        checkpoint.tensors[name] = value.half()
    checkpoint.write()
    model = AutoModel.from_pretrained(checkpoint.folder).float()
    for name, value in by_published_name(model).items():
        assert torch.equal(value, checkpoint.tensors[name].float()), name


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_load_rounds_as_the_published_methods(checkpoint: Checkpoint, dtype: str) -> None:
    """float32 is an exact upcast; half rounds LayerNorm too. The checkpoint's LayerNorm does not fit into half."""
    norm = checkpoint.tensors["transformer.final_layernorm.weight"]
    assert not torch.equal(norm.half().float(), norm)
    model, _ = load(checkpoint.folder, dtype=dtype)
    wanted = getattr(torch, dtype)
    assert not model.training
    assert model.dtype == wanted
    for name, value in by_published_name(model).items():
        assert value.dtype == wanted
        assert torch.equal(value, checkpoint.tensors[name].to(wanted)), name
    assert_same(model, AutoModel.from_pretrained(checkpoint.folder).to(wanted))


@pytest.mark.parametrize("file_format", ["safetensors", "bin"])
def test_saved_under_the_published_names(checkpoint: Checkpoint, tmp_path: Path, file_format: str) -> None:
    checkpoint.write(file_format)
    model = AutoModel.from_pretrained(checkpoint.folder)
    model.save_pretrained(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    computed = {name for name in checkpoint.tensors if name.endswith("inv_freq")}
    # The head is the embedding, which a loader ties, so it is not written twice.
    assert saved.keys() == checkpoint.tensors.keys() - computed - {"lm_head.weight"}
    for name, value in saved.items():
        assert value.dtype == checkpoint.tensors[name].dtype
        assert torch.equal(value, checkpoint.tensors[name]), name
    assert_same(model, AutoModel.from_pretrained(tmp_path / "saved"))


def test_saved_configuration(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Published field names, and an architecture that no other software takes for ChatGLM2."""
    AutoModel.from_pretrained(checkpoint.folder).save_pretrained(tmp_path / "saved")
    saved = Checkpoint(tmp_path / "saved", {}).config
    published = checkpoint.config
    published.pop("torch_dtype"), published.pop("transformers_version")
    assert saved["architectures"] == ["ChatGLMForCausalLM"]
    assert {name: saved[name] for name in published} == {**published, "architectures": ["ChatGLMForCausalLM"]}
    assert saved["dtype"] == "float16"


def test_saved_in_shards(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(checkpoint.folder)
    model.save_pretrained(tmp_path / "saved", max_shard_size="20KB")
    assert len(list((tmp_path / "saved").glob("*.safetensors"))) > 1
    assert_same(model, AutoModel.from_pretrained(tmp_path / "saved"))


def test_saved_where_it_was_loaded_from(checkpoint: Checkpoint) -> None:
    """The weights may still be mapped from the file that is overwritten."""
    model = AutoModel.from_pretrained(checkpoint.folder)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.save_pretrained(checkpoint.folder)
    again = AutoModel.from_pretrained(checkpoint.folder).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in before.items())


@pytest.mark.parametrize(
    ("model_class", "config_class"), [(ChatGLMForCausalLM, ChatGLMConfig), (GLM130BForCausalLM, GLM130BConfig)]
)
@pytest.mark.parametrize("tied", [True, False])
def test_a_new_model_is_saved_under_the_published_names(
    model_class: type, config_class: type, tied: bool, tmp_path: Path
) -> None:
    config = config_class(
        vocab_size=24, hidden_size=16, num_layers=2, num_attention_heads=2, inner_hidden_size=32,
        tie_word_embeddings=tied, bos_token_id=20, eos_token_id=21, mask_token_id=18, gmask_token_id=19, pad_token_id=3,
    )  # fmt: skip
    model = model_class(config)
    model.save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert ("lm_head.weight" in names) is not tied
    assert all(name.startswith("transformer.") for name in names - {"lm_head.weight"})
    assert "transformer.layers.1.attention.query_key_value.bias" in names
    assert_same(model, AutoModel.from_pretrained(tmp_path))


def test_the_decoder_alone(checkpoint: Checkpoint, tmp_path: Path) -> None:
    decoder = ChatGLMModel.from_pretrained(checkpoint.folder)
    whole = AutoModel.from_pretrained(checkpoint.folder)
    assert_same(decoder, whole.model)
    decoder.save_pretrained(tmp_path)
    assert_same(ChatGLMModel.from_pretrained(tmp_path), whole.model)
