"""What the rules keep in float32, and scales in the dtype of their file, on every path by which a model comes about."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model, init_empty_weights, load_checkpoint_and_dispatch, load_checkpoint_in_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from glm_model import ChatGLMForCausalLM, load
from tests.checkpoints import write_weights
from tests.golden.data import FP16, FP32, GOLDEN
from tests.loading.conftest import Checkpoint
from tests.loading.test_state_dicts import logits, new, plain

LAYERS = 3


def prefix_dtypes(model: Any) -> set[torch.dtype]:
    return {value.dtype for name, value in model.named_parameters() if "prefix_encoder." in name}


def norm_dtypes(model: Any) -> set[torch.dtype]:
    return {value.dtype for name, value in model.named_parameters() if "norm" in name}


def with_new_prefix(**options: Any) -> Any:
    config = AutoConfig.from_pretrained(GOLDEN / FP16, pre_seq_len=4, prefix_projection=True)
    return AutoModel.from_pretrained(GOLDEN / FP16, config=config, **options)


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16, torch.float32])
def test_a_new_prefix(dtype: torch.dtype | None) -> None:
    model = with_new_prefix(**({} if dtype is None else {"dtype": dtype}))
    assert prefix_dtypes(model) == {torch.float32}
    assert norm_dtypes(model) == {torch.float32}
    assert model.dtype == (dtype or torch.float16)


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForCausalLM])
def test_from_a_configuration(auto_class: Any) -> None:
    config = AutoConfig.from_pretrained(GOLDEN / FP16, pre_seq_len=4)
    model = auto_class.from_config(config, dtype=torch.float16)
    assert model.dtype == torch.float16
    assert prefix_dtypes(model) == norm_dtypes(model) == {torch.float32}


def test_a_wider_default_dtype_is_taken() -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        model = ChatGLMForCausalLM(AutoConfig.from_pretrained(GOLDEN / FP16, pre_seq_len=4))
    finally:
        torch.set_default_dtype(before)
    assert {value.dtype for value in model.parameters()} == {torch.float64}


def test_packing_a_model_leaves_its_prefix_in_float32() -> None:
    model = with_new_prefix(dtype=torch.float16)
    before = model.model.prefix_encoder.trans[0].weight.clone()
    model.quantize(8)
    assert prefix_dtypes(model) == {torch.float32}
    assert torch.equal(model.model.prefix_encoder.trans[0].weight, before)


def test_one_step_of_training_leaves_a_new_prefix_finite() -> None:
    """In half AdamW's epsilon is 0 and its first step NaN."""
    model = with_new_prefix()
    ids = torch.tensor([[5, 6, model.config.gmask_token_id, model.config.bos_token_id, 9]])
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-4)
    model.train()(ids, labels=ids).loss.backward()
    optimizer.step()
    assert all(value.isfinite().all() for value in model.model.prefix_encoder.parameters())


def test_no_prefix_is_told_so() -> None:
    """The original has no such attribute either, but says nothing of pre_seq_len."""
    model: Any = plain()
    with pytest.raises(AttributeError, match=r"no P-Tuning prefix.*pre_seq_len.*glm_model\.load_prefix"):
        model.transformer.prefix_encoder.load_state_dict({})
    assert not hasattr(model.transformer, "prefix_encoder")
    assert model.model.prefix is None


@pytest.mark.parametrize("value", [False, True])
def test_empty_init(value: bool) -> None:
    model = AutoModel.from_pretrained(GOLDEN / FP16, empty_init=value)
    assert torch.equal(logits(model), logits(plain()))
    ChatGLMForCausalLM(model.config, empty_init=value)


# ---- device maps


def published_map(*places: str) -> dict[str, str]:
    """As the original's `auto_configure_device_map` writes it; `places` of the embedding, the first layer, the rest."""
    embedding, first, others = places
    layers = {f"transformer.layers.{i}": others if i else first for i in range(LAYERS)}
    return {
        "transformer.word_embeddings": embedding,
        "transformer.final_layernorm": first,
        "lm_head": embedding,
    } | layers


def own_map(*places: str) -> dict[str, str]:
    renamed = {"word_embeddings": "embed_tokens", "final_layernorm": "norm", "transformer": "model"}
    found = {"model.rotary_emb": "cpu"}
    for name, place in published_map(*places).items():
        for published, ours in renamed.items():
            name = name.replace(published, ours)
        found[name] = place
    return found


MAPS = [published_map("cpu", "cpu", "disk"), published_map("disk", "disk", "disk"), own_map("cpu", "disk", "disk")]
READERS = ["from_pretrained", "load_checkpoint_and_dispatch", "dispatch_model"]


@pytest.fixture(scope="module", params=["float", "scales in float32, bin", "scales in float32, safetensors in shards"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float checkpoint, whose LayerNorm half cannot hold, or a packed one with scales that it cannot hold."""
    if request.param == "float":
        return GOLDEN / FP16
    target = tmp_path_factory.mktemp("packed")
    source = GOLDEN / "chatglm_tiny_int4"
    shutil.copy(source / "config.json", target)
    tensors = load_file(source / "model.safetensors")
    for name in tensors:
        if name.endswith("_scale"):
            tensors[name] = tensors[name].float() * (1 + 1e-4 * torch.rand(tensors[name].shape))
    shards = 2 if "shards" in request.param else 1
    write_weights(target, tensors, "safetensors" if "safetensors" in request.param else "bin", shards)
    return target


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("device_map", MAPS, ids=["some on the disk", "all on the disk", "our names"])
def test_device_maps(folder: Path, device_map: dict[str, str], reader: str, tmp_path: Path) -> None:
    whole = AutoModel.from_pretrained(folder).eval()
    places = dict(device_map)
    if reader == "from_pretrained":
        model = AutoModel.from_pretrained(folder, device_map=places, offload_folder=tmp_path)
    elif reader == "dispatch_model":
        model = dispatch_model(AutoModel.from_pretrained(folder), places, offload_dir=tmp_path)
    else:
        with init_empty_weights():
            model = AutoModel.from_config(whole.config, dtype=torch.float16)
        model = load_checkpoint_and_dispatch(model, str(folder), places, offload_folder=tmp_path)
    assert torch.equal(logits(model), logits(whole))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_load_with_layers_on_the_disk(checkpoint: Checkpoint, dtype: str) -> None:
    """Here LayerNorm is rounded, on the disk as elsewhere."""
    places = {"model.layers.0": "cpu", "model.embed_tokens": "cpu", "lm_head": "cpu", "model.norm": "disk"}
    places |= {f"model.layers.{i}": "disk" for i in range(1, 4)} | {"model.rotary_emb": "cpu"}
    options: dict[str, Any] = {"device_map": places, "dtype": dtype}
    model, _ = load(checkpoint.folder, **options)
    whole, _ = load(checkpoint.folder, dtype=dtype)
    assert torch.equal(logits(model), logits(whole))


# ---- accelerate without a device map, and with dtypes


def messages_of_accelerate(caplog: pytest.LogCaptureFixture) -> str:
    return " ".join(record.getMessage() for record in caplog.records if record.name.startswith("accelerate"))


@pytest.mark.parametrize(
    "device_map", [None, {"": "cpu"}, published_map("cpu", "cpu", "cpu")], ids=["no", "one", "names"]
)
@pytest.mark.parametrize("strict", [False, True])
def test_load_checkpoint_in_model(device_map: Any, strict: bool, caplog: pytest.LogCaptureFixture) -> None:
    model = new()
    load_checkpoint_in_model(model, str(GOLDEN / FP16), device_map, strict=strict)
    assert torch.equal(logits(model), logits(plain()))
    assert "not used" not in messages_of_accelerate(caplog)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_load_checkpoint_in_model_as_another_dtype(dtype: torch.dtype) -> None:
    wanted = AutoModel.from_pretrained(GOLDEN / FP32, dtype=dtype)
    model = AutoModel.from_config(wanted.config, dtype=dtype)
    load_checkpoint_in_model(model, str(GOLDEN / FP32), {"": "cpu"}, dtype=dtype)
    assert norm_dtypes(model) == {torch.float32}
    assert torch.equal(logits(model), logits(wanted))


def test_a_model_of_another_package(tmp_path: Path) -> None:
    tensors: dict[str, Tensor] = {"0.weight": torch.ones(2, 2), "0.bias": torch.ones(2)}
    write_weights(tmp_path, tensors, "safetensors")
    model = nn.Sequential(nn.Linear(2, 2))
    load_checkpoint_in_model(model, str(tmp_path), {"": "cpu"})
    assert torch.equal(dispatch_model(model, {"0": "cpu"})[0].bias, torch.ones(2))
