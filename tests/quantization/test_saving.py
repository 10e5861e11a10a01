"""Packed models on disk: the published layout, the same bits again, nothing that other programs stumble over."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModel

from glm_model import ChatGLMConfig, ChatGLMForCausalLM, ChatGLMModel, GLMQuantizationConfig
from tests.checkpoints import write_weights
from tests.loading.conftest import Checkpoint
from tests.quantization.data import EMBEDDING, HEAD, INT4, INT4_QE, PACKED, Packed

SETS = pytest.mark.parametrize("packed", PACKED, ids=str)
DTYPES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)


def saved(model: Any, folder: Path, **options: Any) -> dict[str, Tensor]:
    model.save_pretrained(folder, **options)
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def config_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return content


@SETS
@DTYPES
def test_published_names_integers_and_scales(packed: Packed, dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = saved(AutoModel.from_pretrained(packed.folder, dtype=dtype), tmp_path)
    wanted = {name for name in packed.tensors if "inv_freq" not in name}
    if not packed.embeddings:
        wanted.remove(HEAD)  # tied; packed, the published code needs the scales
    assert tensors.keys() == wanted
    for name, scale in packed.scales.items():
        assert torch.equal(tensors[name], packed.tensors[name])
        assert torch.equal(tensors[f"{name}_scale"], scale)
        assert tensors[f"{name}_scale"].dtype == torch.float16


@SETS
@DTYPES
@pytest.mark.parametrize("max_shard_size", ["5GB", "50KB"])
def test_the_same_bits_again(packed: Packed, dtype: torch.dtype, max_shard_size: str, tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(packed.folder, dtype=dtype)
    saved(model, tmp_path, max_shard_size=max_shard_size)
    assert (tmp_path / "model.safetensors").exists() is (max_shard_size == "5GB")
    again = AutoModel.from_pretrained(tmp_path)
    assert_same(model.state_dict(), again.state_dict())
    assert again.dtype == dtype


def assert_same(some: dict[str, Tensor], others: dict[str, Tensor]) -> None:
    assert some.keys() == others.keys()
    for name, value in some.items():
        assert (value.dtype, value.shape) == (others[name].dtype, others[name].shape), name
        assert torch.equal(value, others[name]), name


@SETS
def test_a_model_packed_here(packed: Packed, source: Checkpoint, tmp_path: Path) -> None:
    """Whichever way it was packed, and with the names of this package too."""
    wanted = GLMQuantizationConfig(packed.bits, packed.embeddings)
    loaded = ChatGLMForCausalLM.from_pretrained(source.folder, quantization_config=wanted)
    packed_later = ChatGLMForCausalLM.from_pretrained(source.folder).quantize(packed.bits, packed.embeddings)
    for number, model in enumerate((loaded, packed_later)):
        folder = tmp_path / str(number)
        tensors = saved(model, folder)
        assert all(torch.equal(tensors[name], packed.tensors[name]) for name in packed.scales)
        assert_same(model.state_dict(), AutoModel.from_pretrained(folder).state_dict())
        saved(model, folder / "inner", save_original_format=False)
        assert_same(model.state_dict(), AutoModel.from_pretrained(folder / "inner").state_dict())


@SETS
def test_config_says_it_in_the_published_fields_alone(packed: Packed, source: Checkpoint, tmp_path: Path) -> None:
    wanted = GLMQuantizationConfig(packed.bits, packed.embeddings)
    ChatGLMForCausalLM.from_pretrained(source.folder, quantization_config=wanted).save_pretrained(tmp_path)
    content = config_of(tmp_path)
    assert content["quantization_bit"] == packed.bits
    assert content.get("quantization_embeddings", False) is packed.embeddings
    assert "quantization_config" not in content
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.quantization_bit, config.quantization_embeddings) == (packed.bits, packed.embeddings)
    loaded = AutoModel.from_pretrained(tmp_path).config
    for each in (config, loaded):
        assert "quantization_config" not in each.to_dict()
        assert "quantization_config" not in each.to_diff_dict()


@SETS
def test_what_transformers_calls_quantization_config_is_moved_to_the_published_fields(packed: Packed) -> None:
    given = GLMQuantizationConfig(packed.bits, packed.embeddings).to_dict()
    config = ChatGLMConfig(quantization_config=given)
    assert (config.quantization_bit, config.quantization_embeddings) == (packed.bits, packed.embeddings)
    assert not hasattr(config, "quantization_config")


def test_config_without_a_quantization() -> None:
    config = ChatGLMConfig()
    assert not hasattr(config, "quantization_config")
    assert "quantization_config" not in config.to_dict()
    assert "quantization_config" not in config.to_json_string()


def test_config_keeps_the_quantization_of_another_method() -> None:
    foreign = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    config = ChatGLMConfig(quantization_config=foreign)
    assert config.quantization_config == foreign
    assert not config.quantization_bit
    assert config.to_dict()["quantization_config"] == foreign
    assert json.loads(config.to_json_string())["quantization_config"] == foreign


def test_config_forgets_the_quantization_of_another_method() -> None:
    """As transformers makes it when it turns a model back to float."""
    config = ChatGLMConfig(quantization_config={"quant_method": "hqq"})
    del config.quantization_config
    assert not hasattr(config, "quantization_config")
    assert not config.quantization_bit


def test_loading_leaves_the_configuration_of_the_caller_alone(source: Checkpoint) -> None:
    config = AutoConfig.from_pretrained(source.folder)
    before = config.to_dict()
    ChatGLMForCausalLM.from_pretrained(source.folder, config=config, quantization_config=GLMQuantizationConfig(4))
    assert config.to_dict() == before
    assert not hasattr(config, "quantization_config")


def test_the_decoder_without_its_head(tmp_path: Path) -> None:
    model = ChatGLMModel.from_pretrained(INT4_QE.folder)
    assert torch.equal(model.embed_tokens.weight, INT4_QE.tensors[EMBEDDING])
    tensors = saved(model, tmp_path)
    assert not any("lm_head" in name for name in tensors)
    assert_same(model.state_dict(), ChatGLMModel.from_pretrained(tmp_path).state_dict())


@pytest.mark.parametrize(("file_format", "shards"), [("safetensors", 3), ("bin", 3)])
def test_packed_shards(file_format: str, shards: int, tmp_path: Path) -> None:
    """A weight and its scales may lie in different files."""
    write_weights(tmp_path, INT4.tensors, file_format, shards)
    (tmp_path / "config.json").write_bytes((INT4.folder / "config.json").read_bytes())
    assert_same(
        AutoModel.from_pretrained(INT4.folder).state_dict(),
        AutoModel.from_pretrained(tmp_path).state_dict(),
    )


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what lies where")
def test_integers_stay_in_the_file_until_they_are_needed() -> None:
    """A packed checkpoint in safetensors is mapped into memory, not copied; so a second start takes about a second."""
    model = AutoModel.from_pretrained(INT4.folder, dtype=torch.float32)
    mapped = [range(*ends) for ends in mappings_of(INT4.folder / "model.safetensors")]
    for layer in model.model.layers:
        for parameter in (layer.mlp.dense_4h_to_h.weight, layer.self_attn.dense.weight_scale):
            assert any(parameter.data_ptr() in where for where in mapped)


def mappings_of(file: Path) -> list[tuple[int, int]]:
    """First address, and the one after the last, of each mapping of a file in this process."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    ranges = [line.split()[0].split("-") for line in lines if line.endswith(str(file.resolve()))]
    return [(int(start, 16), int(end, 16)) for start, end in ranges]
