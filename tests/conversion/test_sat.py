"""GLM-130B's own archive against the golden one, which SwissArmyTransformer itself has written and run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from glm_model import CheckpointError, GLM130BConfig, GLM130BForCausalLM, UnsupportedError
from glm_model.conversion.sat import MODEL_CONFIG, read_sat_checkpoint
from tests.golden.data import GLM130B, GOLDEN, assert_close, expected

# The README of the data set; the archive does not tell.
SPECIAL_TOKENS = {
    "mask_token_id": 500,
    "gmask_token_id": 501,
    "smask_token_id": 502,
    "bos_token_id": 504,
    "eos_token_id": [505, 2],
    "pad_token_id": 0,
}
DESCRIPTION = GOLDEN / GLM130B / MODEL_CONFIG
EMBEDDING = "transformer.word_embeddings.weight"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A copy that a test may damage, with its description beside `latest` as SAT writes it."""
    folder = tmp_path / "archive"
    shutil.copytree(GOLDEN / GLM130B / "tp1", folder, copy_function=shutil.copyfile)
    description = json.loads(DESCRIPTION.read_text(encoding="utf-8"))
    (folder / MODEL_CONFIG).write_text(json.dumps({**description, **SPECIAL_TOKENS}), encoding="utf-8")
    return folder


def shard(folder: Path) -> Path:
    return folder / "49300" / "mp_rank_00_model_states.pt"


def tensors_of(folder: Path) -> dict[str, Tensor]:
    content: dict[str, dict[str, Tensor]] = torch.load(shard(folder), weights_only=True)
    return content["module"]


def read(folder: Path) -> tuple[GLM130BConfig, dict[str, Tensor]]:
    return read_sat_checkpoint(folder, DESCRIPTION, **SPECIAL_TOKENS)


def build(folder: Path) -> GLM130BForCausalLM:
    config, tensors = read(folder)
    model: GLM130BForCausalLM = GLM130BForCausalLM.from_pretrained(None, config=config, state_dict=tensors)
    return model.eval()


@pytest.mark.parametrize("case", ["g", "m", "s"])
def test_golden_logits_and_tokens(case: str) -> None:
    model, values = build(GOLDEN / GLM130B / "tp1"), expected(GLM130B)
    tokens = values[f"{case}.tokens"]
    prompt = tokens[:, tokens[0] >= 0]
    with torch.no_grad():
        assert_close(model(prompt).logits, values[f"{case}.logits"])
    wanted = values[f"{case}.greedy_tokens"]
    generated = model.generate(prompt, max_length=40, do_sample=False)
    assert torch.equal(generated[:, : wanted.shape[1]], wanted)


def test_every_value(tmp_path: Path) -> None:
    """As in the archive, and again after a round trip through a Hugging Face folder, whose names are the same."""
    model = build(GOLDEN / GLM130B / "tp1")
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    stored = tensors_of(GOLDEN / GLM130B / "tp1")
    weights = {name: value for name, value in stored.items() if not name.endswith("inv_freq")}
    for loaded in (model, again):
        assert torch.equal(loaded.model.embed_tokens.weight, stored[EMBEDDING])
        assert sum(parameter.numel() for parameter in loaded.parameters()) == sum(w.numel() for w in weights.values())
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_configuration(archive: Path) -> None:
    """Sizes from the tensors, the rest from the description beside `latest`."""
    config, tensors = read_sat_checkpoint(archive)
    sizes = {"num_layers": 3, "hidden_size": 64, "num_attention_heads": 4, "inner_hidden_size": 128, "vocab_size": 512}
    for name, value in {**sizes, "max_sequence_length": 128, **SPECIAL_TOKENS}.items():
        assert getattr(config, name) == value
    assert not any("inv_freq" in name for name in tensors)
    assert read_sat_checkpoint(archive, smask_token_id=None)[0].smask_token_id is None


def test_frequencies_under_sats_own_name(archive: Path) -> None:
    tensors = {name: value for name, value in tensors_of(archive).items() if "inv_freq" not in name}
    tensors["mixins.rotary-embedding.rotary_emb.inv_freq"] = torch.ones(8)
    torch.save({"module": tensors}, shard(archive))
    assert_close(build(archive)(torch.tensor([[7, 501, 504]])).logits,
                 build(GOLDEN / GLM130B / "tp1")(torch.tensor([[7, 501, 504]])).logits, 0)  # fmt: skip


def test_a_release(archive: Path) -> None:
    (archive / "latest").write_text("release\n")
    (archive / "49300").rename(archive / "release")
    assert read_sat_checkpoint(archive)[0].num_layers == 3


def test_glm130b_is_known_by_its_sizes(monkeypatch: pytest.MonkeyPatch, archive: Path) -> None:
    """Without a description; a smaller model stands in for the released one."""
    (archive / MODEL_CONFIG).unlink()
    with pytest.raises(CheckpointError, match=r"model_config\.json does not exist"):
        read_sat_checkpoint(archive)
    sizes = {"num_layers": 3, "hidden_size": 64, "num_attention_heads": 4, "inner_hidden_size": 128, "vocab_size": 512}
    monkeypatch.setitem(GLM130BConfig.presets, "glm-130b", sizes)
    config, _ = read_sat_checkpoint(archive, num_attention_heads=4, **SPECIAL_TOKENS)
    assert config.num_attention_heads == 4


# ---- what is refused


@pytest.mark.parametrize("folder", ["tp2", "tp2_int8", "tp2_int4"])
def test_shards_of_several_ranks(folder: str) -> None:
    with pytest.raises(UnsupportedError, match="2 tensor-parallel shards"):
        read(GOLDEN / GLM130B / folder)


@pytest.mark.parametrize("folder", ["tp2_int8", "tp2_int4"])
def test_quantized_weights(archive: Path, folder: str) -> None:
    shutil.copyfile(shard(GOLDEN / GLM130B / folder), shard(archive))
    with pytest.raises(UnsupportedError, match="quantized"):
        read_sat_checkpoint(archive)


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "is empty"), ("newest", "'newest'"), ("../49300", "step number"), ("7", "no folder"), ("-1", "step number")],
)
def test_latest(archive: Path, content: str, words: str) -> None:
    (archive / "latest").write_text(content)
    with pytest.raises(CheckpointError, match=words):
        read_sat_checkpoint(archive)


def test_no_archive(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="latest does not exist"):
        read_sat_checkpoint(tmp_path)


def test_no_shard(archive: Path) -> None:
    shard(archive).unlink()
    with pytest.raises(CheckpointError, match="holds no mp_rank_00_model_states"):
        read_sat_checkpoint(archive)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "no 'module'"),
        ({"module": 3}, "no 'module'"),
        ({"module": {"a": "b"}}, "no 'module'"),
        ([], "no 'module'"),
        ({"module": {}}, "no matrix transformer.word_embeddings.weight"),
        ({"module": {EMBEDDING: torch.zeros(4)}}, "no matrix transformer.word_embeddings.weight"),
        ({"module": {EMBEDDING: torch.zeros(4, 4)}}, "no matrix .*dense_4h_to_h"),
    ],
)
def test_shards_of_something_else(archive: Path, content: Any, words: str) -> None:
    torch.save(content, shard(archive))
    with pytest.raises(CheckpointError, match=f"{shard(archive)}.*{words}"):
        read_sat_checkpoint(archive)


def test_truncated_shard(archive: Path) -> None:
    content = shard(archive).read_bytes()
    shard(archive).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=f"{shard(archive)} is truncated"):
        read_sat_checkpoint(archive)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": 128}, "says hidden_size 128, but the tensors .* have 64"),
        ({"num_layers": 70}, "says num_layers 70"),
        ({"num_attention_heads": None}, "does not say num_attention_heads"),
        ({"mask_token_id": None}, "mask_token_id is 150000, outside the vocabulary of 512"),
        ({"eos_token_id": [505, 20002]}, "eos_token_id is .*outside the vocabulary"),
    ],
)
def test_description(archive: Path, change: dict[str, Any], words: str) -> None:
    description = {**json.loads((archive / MODEL_CONFIG).read_text(encoding="utf-8")), **change}
    kept = {name: value for name, value in description.items() if value is not None}
    (archive / MODEL_CONFIG).write_text(json.dumps(kept), encoding="utf-8")
    with pytest.raises(CheckpointError, match=words):
        read_sat_checkpoint(archive)


def test_missing_layer(archive: Path) -> None:
    """Names are checked when the model is built."""
    name = "transformer.layers.1.attention.dense.weight"
    tensors = tensors_of(archive)
    del tensors[name]
    torch.save({"module": tensors}, shard(archive))
    with pytest.raises(CheckpointError, match=f"the given state_dict lacks {name}"):
        build(archive)
