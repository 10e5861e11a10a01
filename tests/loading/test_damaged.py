"""Whatever is wrong with a checkpoint is an error that names file and tensor, never a model that babbles."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from glm_model import ChatGLMForCausalLM, CheckpointError, UnsupportedError, load
from glm_model.checkpoint.configuration import read_config, require_model_type
from tests.checkpoints import FILES, write_json
from tests.loading.conftest import Checkpoint

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0f5a\nsize 1740651802\n"
QKV = "transformer.layers.3.attention.query_key_value.weight"
BOTH_WAYS = (AutoModel.from_pretrained, load)


@pytest.fixture(params=FILES, ids=lambda kind: f"{kind[0]}-{kind[1]}")
def written(request: pytest.FixtureRequest, checkpoint: Checkpoint) -> Callable[[], None]:
    """Writes the changed tensors in one of the four kinds of file."""
    return lambda: checkpoint.write(*request.param)


def refused(checkpoint: Checkpoint, *words: str, entrances: tuple[Any, ...] = BOTH_WAYS) -> None:
    """Every way to load the folder raises one readable sentence with these words in it."""
    for entrance in entrances:
        with pytest.raises(CheckpointError) as caught:
            entrance(checkpoint.folder)
        message = str(caught.value)
        assert "\n" not in message
        assert "weights_only" not in message
        for word in words:
            assert word in message
    assert not list(checkpoint.folder.glob("*ran*"))


def test_missing_tensor(checkpoint: Checkpoint, written: Callable[[], None], log: pytest.LogCaptureFixture) -> None:
    del checkpoint.tensors[QKV]
    written()
    refused(checkpoint, str(checkpoint.folder), f"lacks {QKV}.")
    assert not log.records  # one sentence is enough


def test_unexpected_tensor(checkpoint: Checkpoint, written: Callable[[], None]) -> None:
    checkpoint.tensors["transformer.layers.3.attention.extra.weight"] = torch.ones(2)
    written()
    refused(checkpoint, "model", "transformer.layers.3.attention.extra.weight")


def test_unexpected_tensor_beside_the_head(checkpoint: Checkpoint) -> None:
    checkpoint.tensors["lm_head.bias"] = torch.ones(1120)
    checkpoint.write()
    refused(checkpoint, "model.safetensors", "lm_head.bias")


def test_misshapen_tensor(checkpoint: Checkpoint, written: Callable[[], None]) -> None:
    checkpoint.tensors[QKV] = checkpoint.tensors[QKV][:-1].clone()
    written()
    refused(checkpoint, "model", QKV, "[95, 32]", "[96, 32] (so with 1 of the tensors). config.json", "checkpoint.")


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64], ids=str)
def test_weights_that_are_no_floating_numbers(checkpoint: Checkpoint, dtype: torch.dtype) -> None:
    checkpoint.tensors[QKV] = checkpoint.tensors[QKV].to(dtype)
    checkpoint.write("bin")
    refused(checkpoint, "pytorch_model.bin", QKV, str(dtype).removeprefix("torch."), "should be floating")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", [QKV, "transformer.word_embeddings.weight", "transformer.final_layernorm.bias"])
def test_not_finite(checkpoint: Checkpoint, value: float, name: str) -> None:
    checkpoint.tensors[name].view(-1)[-1] = value
    checkpoint.write()
    refused(checkpoint, "model.safetensors", name)


def test_not_finite_names_the_file_that_holds_it(checkpoint: Checkpoint, written: Callable[[], None]) -> None:
    checkpoint.tensors[QKV][5, 5] = float("nan")
    written()
    indexes = list(checkpoint.folder.glob("*.index.json"))
    if indexes:
        shard = json.loads(indexes[0].read_text(encoding="utf-8"))["weight_map"][QKV]
    else:
        shard = weight_file(checkpoint).name
    refused(checkpoint, f"{checkpoint.folder / shard}: {QKV}")


def test_too_large_for_half(checkpoint: Checkpoint) -> None:
    checkpoint.tensors[QKV] = checkpoint.tensors[QKV].float()
    checkpoint.tensors[QKV][0, 0] = 1e5
    checkpoint.write()
    load(checkpoint.folder)
    with pytest.raises(CheckpointError, match=f"{QKV} .*in float16.*bfloat16"):
        load(checkpoint.folder, dtype="float16")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"vocab_size": 1121}, ["model.safetensors: lm_head.weight", "2 of the tensors", "[1120, 32]", "[1121, 32]"]),
        ({"num_layers": 5}, ["lacks transformer.layers.4."]),
        ({"num_layers": 3}, ["model.safetensors holds", "transformer.layers.3."]),
        ({"inner_hidden_size": 128}, ["model.safetensors: ", "transformer.layers.", "mlp.dense_", "of the tensors"]),
        ({"gated_mlp": True}, ["model.safetensors: ", "mlp.dense_h_to_4h."]),
    ],
)
def test_configuration_of_another_checkpoint(checkpoint: Checkpoint, fields: dict[str, Any], words: list[str]) -> None:
    checkpoint.configure(**fields)
    refused(checkpoint, *words)


def test_sizes_may_be_overruled_by_hand(checkpoint: Checkpoint) -> None:
    checkpoint.configure(vocab_size=1121)
    assert AutoModel.from_pretrained(checkpoint.folder, ignore_mismatched_sizes=True).config.vocab_size == 1121


# ---- files


def weight_file(checkpoint: Checkpoint) -> Path:
    """The (second) file with weights."""
    files = [file for file in checkpoint.folder.iterdir() if file.suffix in (".bin", ".safetensors")]
    return sorted(files)[len(files) // 2]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content[:100],
        lambda content: bytes(len(content)),
        lambda content: b"<html>404 Not Found</html>" * 50,
        lambda content: os.urandom(5000),
    ],
    ids=["last byte gone", "half", "start", "zeros", "a web page", "noise"],
)
def test_damaged_file(checkpoint: Checkpoint, written: Callable[[], None], damage: Callable[[bytes], bytes]) -> None:
    written()
    file = weight_file(checkpoint)
    file.write_bytes(damage(file.read_bytes()))
    refused(checkpoint, str(file), "Download it again")


def test_empty_file(checkpoint: Checkpoint, written: Callable[[], None]) -> None:
    written()
    file = weight_file(checkpoint)
    file.write_bytes(b"")
    refused(checkpoint, f"{file} is empty")


def test_git_lfs_pointer(checkpoint: Checkpoint, written: Callable[[], None]) -> None:
    written()
    file = weight_file(checkpoint)
    file.write_bytes(LFS_POINTER)
    refused(checkpoint, f"{file} is a Git-LFS pointer", "git lfs pull")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize(
    ("content", "word"),
    [(LFS_POINTER, "Git-LFS pointer"), (b'{"model_type": ', "not valid JSON"), (b"\xff\xfe", "not valid JSON"),
     (b"[1, 2]", "object"), (b"", "is empty")],
)  # fmt: skip
def test_damaged_json(checkpoint: Checkpoint, name: str, content: bytes, word: str) -> None:
    checkpoint.write("safetensors", 2)
    (checkpoint.folder / name).write_bytes(content)
    refused(checkpoint, str(checkpoint.folder / name), word, entrances=(load, ChatGLMForCausalLM.from_pretrained))


def test_no_weights(checkpoint: Checkpoint) -> None:
    (checkpoint.folder / "model.safetensors").unlink()
    refused(checkpoint, str(checkpoint.folder), "holds no weights", "pytorch_model.bin")


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json does not exist.* not a checkpoint's folder") as caught:
        load(tmp_path)
    assert "Download it again" not in str(caught.value)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"there is no folder {tmp_path / 'nothing'}") as caught:
        read_config(tmp_path / "nothing")
    assert "Download it again" not in str(caught.value)


def test_no_configuration_beside_the_weights(checkpoint: Checkpoint) -> None:
    (checkpoint.folder / "config.json").unlink()
    refused(checkpoint, "config.json does not exist. Download it", entrances=(load,))


@pytest.mark.parametrize(
    ("known", "ending"),
    [
        ({"glm130b"}, "with a GLM-130B checkpoint."),
        ({"chatglm"}, "with a first-generation ChatGLM-6B checkpoint."),
        ({"chatglm", "glm130b"}, "with a first-generation ChatGLM-6B or GLM-130B checkpoint."),
    ],
)
def test_the_remedy_names_what_is_needed(checkpoint: Checkpoint, known: set[str], ending: str) -> None:
    checkpoint.configure(model_type="llama")
    with pytest.raises(CheckpointError) as caught:
        require_model_type(checkpoint.folder, known)
    assert str(caught.value).endswith(ending)


class _Intruder:
    """Runs code when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("old_format", [False, True])
def test_pickle_with_code(checkpoint: Checkpoint, old_format: bool) -> None:
    checkpoint.write("bin")
    content = {**checkpoint.tensors, QKV: _Intruder(checkpoint.folder / "ran")}
    file = checkpoint.folder / "pytorch_model.bin"
    torch.save(content, file, _use_new_zipfile_serialization=not old_format)
    refused(checkpoint, str(file), "Python objects", "mkdir", "never run")


def test_bare_pickle_with_code(checkpoint: Checkpoint) -> None:
    checkpoint.write("bin")
    file = checkpoint.folder / "pytorch_model.bin"
    file.write_bytes(pickle.dumps({QKV: _Intruder(checkpoint.folder / "ran")}, protocol=2))
    refused(checkpoint, str(file))


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {"state_dict": {}},
        {"a": 1},
        {1: torch.ones(2)},
        {"a": torch.eye(2).to_sparse()},
        {"a": torch.empty(2, device="meta")},
    ],
    ids=["list", "nested", "number", "no name", "sparse", "no values"],
)
def test_pickle_of_something_else(checkpoint: Checkpoint, content: Any) -> None:
    checkpoint.write("bin")
    torch.save(content, checkpoint.folder / "pytorch_model.bin")
    refused(checkpoint, "pytorch_model.bin", "dictionary of tensors")


# ---- the index of shards


@pytest.mark.parametrize("file_format", ["safetensors", "bin"])
@pytest.mark.parametrize("outside", ["../{}", "sub/../../{}", "{absolute}", "..\\{}", "C:{}"])
def test_index_that_points_outside(checkpoint: Checkpoint, file_format: str, outside: str) -> None:
    """Even if what it points to is the right file."""
    checkpoint.write(file_format, 2)
    (index,) = checkpoint.folder.glob("*.index.json")
    content = json.loads(index.read_text(encoding="utf-8"))
    shard = content["weight_map"][QKV]
    shutil.copyfile(checkpoint.folder / shard, checkpoint.folder.parent / shard)
    elsewhere = outside.format(shard, absolute=checkpoint.folder.parent / shard)
    content["weight_map"] = {name: elsewhere if file == shard else file for name, file in content["weight_map"].items()}
    write_json(index, content)
    refused(checkpoint, str(index), "outside")


@pytest.mark.parametrize("file_format", ["safetensors", "bin"])
def test_index_that_names_a_missing_shard(checkpoint: Checkpoint, file_format: str) -> None:
    checkpoint.write(file_format, 3)
    (index,) = checkpoint.folder.glob("*.index.json")
    gone = weight_file(checkpoint)
    gone.unlink()
    refused(checkpoint, str(index), gone.name, "missing")


@pytest.mark.parametrize(
    "content",
    [{}, {"metadata": {}}, {"metadata": {}, "weight_map": {}}, {"metadata": {}, "weight_map": {"a": 1}},
     {"metadata": {}, "weight_map": []}, {"weight_map": {"a": "model-00001-of-00002.safetensors"}}],
)  # fmt: skip
def test_index_that_is_none(checkpoint: Checkpoint, content: dict[str, Any]) -> None:
    checkpoint.write("safetensors", 2)
    write_json(checkpoint.folder / "model.safetensors.index.json", content)
    refused(checkpoint, "model.safetensors.index.json", "no index")


# ---- other models


@pytest.mark.parametrize(
    "fields",
    [
        {"ffn_hidden_size": 13696, "kv_channels": 128, "multi_query_attention": True, "padded_vocab_size": 65024},
        {"rmsnorm": True},
    ],
)
@pytest.mark.parametrize("entrance", [AutoConfig.from_pretrained, AutoModel.from_pretrained, load])
def test_chatglm2(checkpoint: Checkpoint, fields: dict[str, Any], entrance: Callable[..., Any]) -> None:
    checkpoint.configure(**fields)
    with pytest.raises(UnsupportedError, match="ChatGLM2"):
        entrance(checkpoint.folder)


@pytest.mark.parametrize("model_type", ["bert", "glm", "", None])
def test_another_model_type(checkpoint: Checkpoint, model_type: str | None) -> None:
    checkpoint.configure(model_type=model_type)
    refused(checkpoint, "config.json", f"{model_type!r}", entrances=(load, ChatGLMForCausalLM.from_pretrained))


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("hidden_size", "32", "hidden_size"),
        ("num_layers", None, "num_layers"),
        ("hidden_size", 33, "hidden_size"),
        ("num_attention_heads", 0, "num_attention_heads must be at least 1"),
        ("num_layers", -1, "num_layers must be at least 1"),
        ("pre_seq_len", -8, "pre_seq_len"),
        ("rotary_dtype", "half", "rotary_dtype"),
        ("torch_dtype", "float17", "float17"),
        ("model_type", ["chatglm"], "model_type"),
    ],
)
def test_a_field_that_cannot_be(checkpoint: Checkpoint, field: str, value: Any, word: str) -> None:
    checkpoint.configure(**{field: value})
    refused(checkpoint, "config.json", word, entrances=(load,))


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"])
@pytest.mark.parametrize(("content", "word"), [(b"{,}", "JSON"), (b"[]", "list"), (LFS_POINTER, "Git-LFS")])
def test_a_damaged_file_of_the_tokenizer(checkpoint: Checkpoint, name: str, content: bytes, word: str) -> None:
    (checkpoint.folder / name).write_bytes(content)
    refused(checkpoint, name, word, entrances=(load,))
