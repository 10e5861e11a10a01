"""`load_state_dict` understands published names: logits equal those of `from_pretrained`, bit for bit."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.trainer_utils import load_sharded_checkpoint

from glm_model import ChatGLMModel, CheckpointError, load_prefix
from tests.checkpoints import write_weights
from tests.golden.data import FP16, GOLDEN, PACKED, TUNED
from tests.loading.conftest import Checkpoint

PREFIX = "transformer.prefix_encoder."


TIED = "chatglm_tiny_int4_qe"


@cache
def _plain(folder: str, options: tuple[tuple[str, Any], ...]) -> Any:
    return AutoModel.from_pretrained(GOLDEN / folder, **dict(options)).eval()


@cache
def _new(folder: str) -> Any:
    config = AutoConfig.from_pretrained(GOLDEN / folder)
    return AutoModel.from_config(config, dtype=config.dtype).eval()


def plain(folder: str = FP16, **options: Any) -> Any:
    """The folder's model as `from_pretrained` gives it."""
    return copy.deepcopy(_plain(folder, tuple(options.items())))


def new(folder: str = FP16) -> Any:
    """A model of random weights in the dtype of the folder's."""
    return copy.deepcopy(_new(folder))


def stored(folder: str = FP16) -> dict[str, Tensor]:
    return load_file(GOLDEN / folder / "model.safetensors")


def logits(model: Any) -> Tensor:
    ids = torch.tensor([[5, 6, 7, model.config.gmask_token_id, model.config.bos_token_id]])
    with torch.no_grad():
        found: Tensor = model.eval()(ids).logits
    return found


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("folder", [FP16, TIED])
def test_a_whole_file(folder: str, strict: bool, assign: bool) -> None:
    model = new(folder)
    result = model.load_state_dict(stored(folder), strict=strict, assign=assign)
    assert result.missing_keys == result.unexpected_keys == []
    assert torch.equal(logits(model), logits(plain(folder)))
    tied = model.config.tie_word_embeddings
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied


def test_our_own_names() -> None:
    model = new()
    model.load_state_dict(plain().state_dict())
    assert torch.equal(logits(model), logits(plain()))
    again = copy.deepcopy(model)
    again.load_state_dict(stored())
    assert torch.equal(logits(again), logits(model))


def test_another_head_than_the_embedding() -> None:
    """As in the original, which always ties the two."""
    model, tensors = new(TIED), stored(TIED)
    tensors["lm_head.weight"] = torch.ones_like(tensors["transformer.word_embeddings.weight"])
    tensors["lm_head.weight_scale"] = torch.ones_like(tensors["transformer.word_embeddings.weight_scale"])
    model.load_state_dict(tensors)
    assert torch.equal(logits(model), logits(plain(TIED)))


def test_a_file_without_the_tied_head() -> None:
    model, tensors = new(TIED), stored(TIED)
    del tensors["lm_head.weight"], tensors["lm_head.weight_scale"]
    model.load_state_dict(tensors, strict=True)
    assert torch.equal(logits(model), logits(plain(TIED)))


def test_the_decoder_alone() -> None:
    whole, decoder = plain(), ChatGLMModel(plain().config)
    for tensors in (stored(), whole.state_dict()):
        decoder.load_state_dict(tensors)
        for name, value in decoder.state_dict().items():
            assert torch.equal(value, whole.model.state_dict()[name].to(value.dtype)), name
    model = new()
    model.load_state_dict(whole.model.state_dict(), strict=False)
    assert torch.equal(model.model.norm.bias, whole.model.norm.bias)


@pytest.mark.parametrize("wrapper", ["module", "base_model.model"])
def test_inside_a_wrapper(wrapper: str) -> None:
    """As in DistributedDataParallel and in PEFT."""
    model = new()
    outer = nn.Module()
    first, *others = wrapper.split(".")
    inner: nn.Module = model
    for name in others:
        holder = nn.Module()
        holder.add_module(name, inner)
        inner = holder
    outer.add_module(first, inner)
    outer.load_state_dict({f"{wrapper}.{name}": value for name, value in stored().items()})
    assert torch.equal(logits(model), logits(plain()))


@pytest.mark.parametrize("file_format", ["safetensors", "bin"])
@pytest.mark.parametrize("strict", [False, True])
def test_shards(checkpoint: Checkpoint, file_format: str, strict: bool) -> None:
    write_weights(checkpoint.folder, checkpoint.tensors, file_format, shards=3)
    (checkpoint.folder / "model.safetensors").unlink(missing_ok=True)
    wanted = AutoModel.from_pretrained(checkpoint.folder)
    model = AutoModel.from_config(wanted.config, dtype=torch.float16)
    result = load_sharded_checkpoint(model, checkpoint.folder, strict=strict)
    assert result.missing_keys == result.unexpected_keys == []
    assert torch.equal(logits(model), logits(wanted))


def test_a_sharded_checkpoint_without_a_weight(checkpoint: Checkpoint) -> None:
    """Trainer asks with strict=False and would only warn."""
    lost = "transformer.layers.0.mlp.dense_h_to_4h.bias"
    del checkpoint.tensors[lost]
    checkpoint.write(shards=3)
    model = AutoModel.from_config(AutoConfig.from_pretrained(checkpoint.folder))
    with pytest.raises(CheckpointError, match=r"lacks model\.layers\.0\.mlp\.dense_h_to_4h\.bias"):
        load_sharded_checkpoint(model, checkpoint.folder, strict=False)


def test_shards_of_a_model_of_another_package(tmp_path: Path) -> None:
    write_weights(tmp_path, {"weight": torch.ones(2, 2), "bias": torch.ones(2)}, "bin", shards=2)
    model = nn.Linear(2, 2)
    load_sharded_checkpoint(model, str(tmp_path))
    assert torch.equal(model.bias, torch.ones(2))


# ---- packed models


@pytest.mark.parametrize("folder", PACKED)
def test_packed_tensors(folder: str) -> None:
    wanted = plain(folder)
    model = new(folder)
    model.load_state_dict(stored(folder))
    assert torch.equal(logits(model), logits(wanted))


def test_packed_tensors_into_a_model_that_was_packed_by_hand() -> None:
    model = plain().quantize(8)
    model.load_state_dict(stored("chatglm_tiny_int8"))
    assert torch.equal(logits(model), logits(plain("chatglm_tiny_int8", dtype=torch.float16)))


def test_float_tensors_then_quantize() -> None:
    model = new()
    model.load_state_dict(stored())
    assert torch.equal(logits(model.quantize(4)), logits(plain().quantize(4)))


@pytest.mark.parametrize("strict", [False, True])
def test_packed_tensors_into_a_float_model(strict: bool) -> None:
    """INT8 integers have the shape of the float weight; torch would copy them."""
    with pytest.raises(CheckpointError, match=r"is int8 .* call model\.quantize"):
        plain().load_state_dict(stored("chatglm_tiny_int8"), strict=strict)


# ---- a P-Tuning prefix


@pytest.mark.parametrize(("half", "quantized"), [(False, "no"), (True, "no"), (False, "before"), (False, "after")])
@pytest.mark.parametrize("folder", TUNED)
def test_a_prefix(folder: str, half: bool, quantized: str) -> None:
    wanted = plain("chatglm_tiny_fp32")
    load_prefix(wanted, GOLDEN / folder)
    options = {"pre_seq_len": 8, "prefix_projection": folder.endswith("true")}
    model = plain("chatglm_tiny_fp32", **options)
    for each in (wanted, model):
        if half:
            each.half()
        if quantized == "before":
            each.quantize(8)
    tensors = {name: value for name, value in stored(folder).items() if name.startswith(PREFIX)}
    result = model.load_state_dict(tensors, strict=False)
    assert not result.unexpected_keys
    for each in (wanted, model):
        if quantized == "after":
            each.quantize(8)
    assert torch.equal(logits(model), logits(wanted))


@pytest.mark.parametrize("assign", [False, True])
def test_a_prefix_in_half_is_widened(assign: bool) -> None:
    model = plain("chatglm_tiny_fp32", pre_seq_len=8)
    tensors = {name: value.half() for name, value in stored(TUNED[0]).items() if name.startswith(PREFIX)}
    model.load_state_dict(tensors, strict=False, assign=assign)
    weight = model.model.prefix_encoder.embedding.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, tensors[PREFIX + "embedding.weight"].float())


# ---- what belongs to no weight


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"a.weight": torch.ones(1)}, r"a\.weight\. They are of another model"),
        ({PREFIX + "embedding.weight": torch.ones(8, 4)}, "P-Tuning prefix: use glm_model.load_prefix"),
        ({"base_model.model.transformer.layers.0.attention.query_key_value.lora_A.weight": torch.ones(1)}, "LoRA"),
        ({"module.transformer.final_layernorm.weight": torch.ones(1)}, "remove the start of their names"),
    ],
    ids=["another model", "a prefix", "LoRA", "wrapped"],
)
@pytest.mark.parametrize("strict", [False, True])
def test_nothing_fits(tensors: dict[str, Tensor], words: str, strict: bool) -> None:
    with pytest.raises(CheckpointError, match=f"none of the given tensors.*{words}"):
        plain().load_state_dict(tensors, strict=strict)


def test_a_part_that_fits_loads_with_strict_off() -> None:
    model = new()
    bias = torch.full((model.config.hidden_size,), 0.5)
    result = model.load_state_dict({"transformer.final_layernorm.bias": bias, "other": bias}, strict=False)
    assert result.unexpected_keys == ["other"]
    assert torch.equal(model.model.norm.bias, bias)
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({"transformer.final_layernorm.bias": bias})
