"""Folders that once loaded wrongly, hung or ended without a sentence: each is refused by file and field, quickly."""

import contextlib
import json
import logging
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from glm_model import ChatGLMForCausalLM, ChatGLMTokenizer, CheckpointError, GLM130BConfig, load
from glm_model.checkpoint.boundary import reading
from glm_model.checkpoint.files import read_json, read_pickle, weight_files
from glm_model.checkpoint.prefix import load_prefix
from glm_model.conversion.__main__ import main as convert
from glm_model.conversion.sat import SatArchive
from glm_model.errors import GLMError
from glm_model.generation.sampling import InvalidScoreLogitsProcessor
from glm_model.generation.stream import stream_text
from glm_model.options import SamplingOptions
from glm_model.plan.__main__ import main as plan
from tests.checkpoints import write_json
from tests.golden.data import GLM130B
from tests.loading.conftest import LAYERS, Checkpoint
from tests.loading.fuzz import as_any_user

BIAS = "transformer.layers.1.mlp.dense_h_to_4h.bias"
NORM = "transformer.layers.1.input_layernorm.weight"
MATRIX = "transformer.layers.1.attention.dense.weight"


def refusal(entrance: Callable[[Any], Any], folder: Path) -> str:
    """Return the one line that an entrance refuses a folder with, within two seconds."""
    started = time.process_time()
    with pytest.raises(CheckpointError) as caught:
        entrance(folder)
    assert time.process_time() - started < 2
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1100
    return message


def refused(folder: Path, *words: str) -> None:
    for entrance in (load, ChatGLMForCausalLM.from_pretrained):
        message = refusal(entrance, folder)
        for word in words:
            assert word in message


# ---- sizes


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"num_layers": 100_000}, "num_layers"),
        ({"num_layers": 8000}, "num_layers 8000, and the files hold 4 layers"),
        ({"hidden_size": 2**30}, "hidden_size"),
        ({"hidden_size": 2**18, "num_attention_heads": 2**10}, "model.safetensors"),
        ({"inner_hidden_size": 2**22}, "model.safetensors"),
        ({"inner_hidden_size": -64}, "inner_hidden_size"),
        ({"vocab_size": 2**24}, "model.safetensors"),
        ({"vocab_size": 10**15}, "vocab_size"),
        ({"num_attention_heads": 8}, "num_attention_heads"),
        ({"num_attention_heads": 10**6}, "num_attention_heads"),
        ({"pre_seq_len": 10**7}, "pre_seq_len"),
        ({"max_sequence_length": 0}, "max_sequence_length"),
        ({"max_sequence_length": 10**12}, "max_sequence_length"),
    ],
)
def test_sizes_that_the_tensors_contradict(checkpoint: Checkpoint, fields: dict[str, Any], word: str) -> None:
    checkpoint.configure(**fields)
    refused(checkpoint.folder, word)


def test_a_size_that_is_left_out(checkpoint: Checkpoint) -> None:
    """The class's default, 4096, then counts."""
    fields = checkpoint.config
    del fields["hidden_size"]
    write_json(checkpoint.folder / "config.json", fields)
    refused(checkpoint.folder, "model.safetensors")


def test_a_missing_tensor_gets_no_memory(checkpoint: Checkpoint) -> None:
    del checkpoint.tensors["transformer.word_embeddings.weight"], checkpoint.tensors["lm_head.weight"]
    checkpoint.write()
    checkpoint.configure(vocab_size=2**24)
    refused(checkpoint.folder, "lacks transformer.word_embeddings.weight")


# ---- dtypes


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.bool, torch.int64, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("name", [BIAS, NORM, MATRIX])
def test_no_integers_where_a_float_belongs(checkpoint: Checkpoint, name: str, dtype: torch.dtype) -> None:
    checkpoint.tensors[name] = checkpoint.tensors[name].to(dtype)
    checkpoint.write()
    refused(checkpoint.folder, "model.safetensors", name, str(dtype).removeprefix("torch."), "floating")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.float16, torch.float8_e5m2], ids=str)
def test_no_other_dtype_where_packed_integers_belong(checkpoint: Checkpoint, dtype: torch.dtype) -> None:
    packed = "transformer.layers.1.attention.dense.weight"
    checkpoint.configure(quantization_bit=8)
    for name in [name for name in checkpoint.tensors if ".layers." in name and checkpoint.tensors[name].ndim == 2]:
        checkpoint.tensors[f"{name}_scale"] = torch.ones(len(checkpoint.tensors[name]), dtype=torch.float16)
        checkpoint.tensors[name] = checkpoint.tensors[name].to(torch.int8)
    checkpoint.write()
    load(checkpoint.folder)
    checkpoint.tensors[packed] = checkpoint.tensors[packed].to(dtype)
    checkpoint.write()
    refused(checkpoint.folder, "model.safetensors", packed, "quantization_bit 8")
    checkpoint.tensors[packed] = checkpoint.tensors[packed].to(torch.int8)
    checkpoint.tensors[NORM] = checkpoint.tensors[NORM].to(torch.int8)
    checkpoint.write()
    refused(checkpoint.folder, "model.safetensors", NORM, "floating")


def test_a_prefix_of_float8(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model, _ = load(checkpoint.folder)
    torch.save({"embedding.weight": torch.zeros(4, 2 * 4 * 32).to(torch.float8_e4m3fn)}, tmp_path / "prefix.bin")
    with pytest.raises(CheckpointError, match="float8_e4m3fn"):
        load_prefix(model, tmp_path / "prefix.bin")
    torch.save({"embedding.weight": torch.zeros(10**9, 0)}, tmp_path / "prefix.bin")
    with pytest.raises(CheckpointError, match=r"shape \[1000000000, 0\]"):
        load_prefix(model, tmp_path / "prefix.bin")


# ---- numbers and types of fields

HOSTILE: list[tuple[str, str, Any]] = [
    ("config.json", "layernorm_epsilon", float("nan")),
    ("config.json", "layernorm_epsilon", 0.0),
    ("config.json", "layernorm_epsilon", -1e-5),
    ("config.json", "deepnorm_alpha", float("inf")),
    ("config.json", "initializer_range", float("nan")),
    ("config.json", "eos_token_id", "3"),
    ("config.json", "eos_token_id", []),
    ("config.json", "eos_token_id", -5),
    ("config.json", "bos_token_id", 2**63),
    ("config.json", "mask_token_id", 5000),
    ("config.json", "auto_map", 3),
    ("config.json", "auto_map", {"AutoModelForCausalLM": 3}),
    ("config.json", "architectures", "ChatGLMModel"),
    ("config.json", "architectures", [3]),
    ("config.json", "torch_dtype", 16),
    ("config.json", "temperature", "hot"),
    ("config.json", "anything", float("-inf")),
    ("config.json", "quantization_config", [4]),
    ("config.json", "quantization_config", {"quant_method": "nothing"}),
    ("config.json", "quantization_config", {"quant_method": 3}),
    ("config.json", "num_layers", True),
    ("config.json", "num_labels", 10**8),
    ("config.json", "id2label", {"a": "b"}),
    ("config.json", "_attn_implementation", "nope"),
    ("config.json", "cache_implementation", "nope"),
    ("config.json", "watermarking_config", {"a": 1}),
    ("config.json", "intermediate_size", "x"),
    ("config.json", "return_dict", {}),
    ("config.json", "rope_scaling", 3),
    ("generation_config.json", "eos_token_id", 10**6),
    ("generation_config.json", "cache_implementation", "nope"),
    ("generation_config.json", "exponential_decay_length_penalty", "x"),
    ("generation_config.json", "eos_token_id", "x"),
    ("generation_config.json", "eos_token_id", 2**63),
    ("generation_config.json", "top_p", float("nan")),
    ("generation_config.json", "top_p", 3),
    ("generation_config.json", "temperature", -1),
    ("generation_config.json", "max_length", 1e9),
    ("generation_config.json", "do_sample", "yes"),
]
HOSTILE_TOKENIZERS: list[tuple[str, str, Any]] = [
    ("tokenizer_config.json", "model_max_length", "x"),
    ("tokenizer_config.json", "model_max_length", -1),
    ("tokenizer_config.json", "model_max_length", float("inf")),
    ("tokenizer_config.json", "num_image_tokens", 2**40),
    ("tokenizer_config.json", "num_image_tokens", -1),
    ("tokenizer_config.json", "do_lower_case", "no"),
    ("tokenizer_config.json", "bos_token", 7),
    ("tokenizer_config.json", "bos_token", {"content": None}),
    ("tokenizer_config.json", "auto_map", 3),
    ("tokenizer_config.json", "added_tokens_decoder", {"x": {"content": "a"}}),
    ("tokenizer_config.json", "added_tokens_decoder", [1]),
    ("tokenizer_config.json", "chat_template", 5),
    ("tokenizer_config.json", "padding_side", 5),
    ("tokenizer_config.json", "extra_special_tokens", 5),
    ("special_tokens_map.json", "eos_token", ["a"]),
    ("added_tokens.json", "<a>", "3"),
    ("added_tokens.json", "<a>", 2**40),
]


def change(file: Path, field: str, value: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.write_text(json.dumps({**content, field: value}), encoding="utf-8")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, golden: Path) -> Checkpoint:
    """One folder for all cases that change a JSON file and put it back."""
    from tests.loading.conftest import checkpoint as make

    return make.__wrapped__(tmp_path_factory.mktemp("kept"), golden)  # type: ignore[attr-defined]


@contextlib.contextmanager
def changed(file: Path) -> Iterator[None]:
    before = file.read_bytes() if file.exists() else None
    try:
        yield
    finally:
        file.unlink()
        if before is not None:
            file.write_bytes(before)


@pytest.mark.parametrize(("name", "field", "value"), HOSTILE, ids=repr)
def test_a_field_that_cannot_be(kept: Checkpoint, name: str, field: str, value: Any) -> None:
    with changed(kept.folder / name):
        change(kept.folder / name, field, value)
        refused(kept.folder, name, field if field != "watermarking_config" else "WatermarkingConfig")


@pytest.mark.parametrize(("name", "field", "value"), HOSTILE_TOKENIZERS, ids=repr)
def test_a_tokenizer_field_that_cannot_be(kept: Checkpoint, name: str, field: str, value: Any) -> None:
    with changed(kept.folder / name):
        change(kept.folder / name, field, value)
        message = refusal(load, kept.folder)
        assert name in message
        assert field in message


def test_the_largest_length_that_transformers_writes(kept: Checkpoint) -> None:
    file = kept.folder / "tokenizer_config.json"
    with changed(file):
        change(file, "model_max_length", int(1e30))
        load(kept.folder)


# ---- whatever else a file may do


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
        (b'{"num_layers": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"\xef\xbb\xbf{}", "byte-order mark"),
        (b"\xff\xfe{\0}\0", "UTF-16"),
        (b'{"a": "\\ud800"}', "half a character"),
        (b"[]", "object"),
    ],
)
def test_a_json_file_that_is_none(kept: Checkpoint, content: bytes, word: str) -> None:
    file = kept.folder / "config.json"
    with changed(file):
        file.write_bytes(content)
        refused(kept.folder, str(file), word)


def test_json_of_gigabytes_is_not_read(kept: Checkpoint) -> None:
    file = kept.folder / "config.json"
    with changed(file):
        with file.open("wb") as stream:
            stream.truncate(3 << 30)
        refused(kept.folder, str(file), "3,221,225,472 bytes")


def test_a_shard_whose_name_no_file_can_have(checkpoint: Checkpoint) -> None:
    checkpoint.write("safetensors", 2)
    (index,) = checkpoint.folder.glob("*.index.json")
    content = json.loads(index.read_text(encoding="utf-8"))
    for name in ("x" * 5000, "a\0b", "\x1b[2J"):
        content["weight_map"][BIAS] = name
        write_json(index, content)
        refused(checkpoint.folder, str(index))


def test_a_path_that_no_folder_can_have() -> None:
    assert "File name too long" in refusal(load, Path("x" * 5000))


def test_a_file_that_may_not_be_read(kept: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", deny)
    message = refusal(load, kept.folder)
    assert message == f"{kept.folder / 'config.json'} cannot be read: Permission denied."


@pytest.mark.parametrize("error", [TypeError("x"), AttributeError(), IndexError(), OverflowError(), RecursionError()])
def test_the_boundary_keeps_the_cause(error: Exception) -> None:
    with pytest.raises(CheckpointError, match=r"^some/file ") as caught, reading("some/file"):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [MemoryError(), GLMError("ours"), ModuleNotFoundError("torch"), KeyboardInterrupt()])
def test_the_boundary_lets_what_is_no_fault_of_a_file_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, reading("some/file"):
        raise error
    assert caught.value is error


def test_a_mistake_of_the_caller_stays_a_type_error(kept: Checkpoint) -> None:
    with pytest.raises(TypeError, match="no_such_option"):
        ChatGLMForCausalLM.from_pretrained(kept.folder, no_such_option=1)


# ---- messages


@pytest.mark.parametrize(
    "name", ["\x1b]52;c;QUJD\x07", "a\nb\r\u202ec", "y" * 10**6, "\x9b2J"], ids=["escape", "line", "long", "csi"]
)
def test_a_message_is_one_printable_line_of_bounded_length(checkpoint: Checkpoint, name: str) -> None:
    checkpoint.tensors[name] = torch.ones(2)
    checkpoint.write("bin")
    refused(checkpoint.folder, "pytorch_model.bin")
    checkpoint.configure(model_type=name)
    refused(checkpoint.folder, "config.json")


@pytest.mark.parametrize("kind", [GLMError, CheckpointError])
def test_errors_clean_their_text(kind: type[GLMError]) -> None:
    assert str(kind("图 a\x1b[2J\nb\u3000c\u202e")) == "图 a\\x1b[2J b c\\u202e"


# ---- folders that are something else


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"}, ["PEFT", "merge_and_unload"]),
        ({"mp_rank_00_model_states.pt": b"x"}, ["one step of an archive", "latest"]),
        ({"49300/mp_rank_00_model_states.pt": b"x"}, ["without its file 'latest'", "49300"]),
        ({"chatglm-ggml.bin": b"ggmlx"}, ["chatglm.cpp"]),
        ({"q4_0.bin": b"GGUFx"}, ["llama.cpp"]),
        ({"model.gguf": b"GGUFx"}, ["llama.cpp"]),
        ({"tf_model.h5": b"x"}, ["TensorFlow"]),
        ({"zero_to_fp32.py": b"x", "latest.txt": b"x"}, ["DeepSpeed", "zero_to_fp32.py"]),
        ({"snapshots/abc/config.json": b"{}"}, ["folder above", "abc"]),
        ({}, ["is empty"]),
    ],
    ids=lambda given: next(iter(given), "nothing"),
)
def test_a_folder_is_told_what_it_is(tmp_path: Path, files: dict[str, bytes], words: list[str]) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    refused(tmp_path, str(tmp_path), *words)
    message = refusal(load, tmp_path)
    assert "size should be" not in message


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"x")
    assert "is a file" in refusal(load, file)


@pytest.mark.parametrize("start", ["module.", "base_model.model.", "_orig_mod.", "glm."])
@pytest.mark.parametrize("file_format", ["bin", "safetensors"])
def test_names_of_a_wrapper(checkpoint: Checkpoint, start: str, file_format: str) -> None:
    renamed = {start + name: tensor for name, tensor in checkpoint.tensors.items()}
    checkpoint.tensors.clear()
    checkpoint.tensors.update(renamed)
    checkpoint.write(file_format)
    refused(checkpoint.folder, f"start with '{start}'", "remove that start")
    assert "incomplete" not in refusal(load, checkpoint.folder)


def test_tensors_one_level_down(checkpoint: Checkpoint) -> None:
    checkpoint.write("bin")
    torch.save({"module": checkpoint.tensors, "step": 3}, checkpoint.folder / "pytorch_model.bin")
    refused(checkpoint.folder, "pytorch_model.bin", "inside 'module'")


# ---- bounds


def _rewrite_pickle(file: Path, content: bytes) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")


@pytest.mark.parametrize("is_archive", [True, False])
def test_a_pickle_of_marks(checkpoint: Checkpoint, is_archive: bool) -> None:
    checkpoint.write("bin")
    file = checkpoint.folder / "pytorch_model.bin"
    content = b"\x80\x02" + b"(" * 50_000_000 + b"."
    if is_archive:
        _rewrite_pickle(file, content)
    else:
        file.write_bytes(content)
    del content
    assert str(file) in refusal(lambda folder: weight_files(folder) and read_pickle(file), checkpoint.folder)


def test_a_pickle_that_allocates(checkpoint: Checkpoint) -> None:
    checkpoint.write("bin")
    file = checkpoint.folder / "pytorch_model.bin"
    _rewrite_pickle(file, b"\x80\x02c__builtin__\nbytearray\n(J\xff\xff\xff\x7ftR.")
    refused(checkpoint.folder, str(file), "bytearray")


def test_an_expanded_tensor(checkpoint: Checkpoint) -> None:
    checkpoint.tensors[BIAS] = torch.ones(1).expand(10**11)
    checkpoint.write("bin")
    refused(checkpoint.folder, "pytorch_model.bin", "dictionary of tensors")


def test_a_compressed_archive(checkpoint: Checkpoint) -> None:
    checkpoint.write("bin")
    file = checkpoint.folder / "pytorch_model.bin"
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    refused(checkpoint.folder, str(file), "compressed")


def _entries(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def _write_entries(file: Path, entries: dict[str, bytes]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("size", [0, 100, -4])
def test_an_archive_whose_tensor_lacks_bytes(checkpoint: Checkpoint, size: int) -> None:
    """torch maps the file, and would take what follows for the rest of the tensor."""
    checkpoint.write("bin")
    file = checkpoint.folder / "pytorch_model.bin"
    entries = _entries(file)
    name = next(name for name in entries if name.endswith("data/3"))
    _write_entries(file, entries | {name: entries[name][:size]})
    refused(checkpoint.folder, str(file), "no entry has the")


def test_an_archive_whose_directory_names_another_place(checkpoint: Checkpoint) -> None:
    checkpoint.write("bin")
    file = checkpoint.folder / "pytorch_model.bin"
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        first, second = (next(one for one in archive.infolist() if one.filename.endswith(f"data/{i}")) for i in (3, 4))
        place = content.index(first.filename.encode(), archive.start_dir) - 4
    content[place : place + 4] = second.header_offset.to_bytes(4, "little")
    file.write_bytes(content)
    refused(checkpoint.folder, str(file), "damaged")


def test_an_archive_with_names_that_differ_in_capitals(checkpoint: Checkpoint) -> None:
    checkpoint.write("bin")
    file = checkpoint.folder / "pytorch_model.bin"
    entries = _entries(file)
    name = next(name for name in entries if name.endswith("data/3"))
    _write_entries(file, entries | {name.upper(): bytes(len(entries[name]))})
    refused(checkpoint.folder, str(file), "two entries")


def test_a_tensor_that_is_made_without_the_file(checkpoint: Checkpoint) -> None:
    file = checkpoint.folder / "other.bin"
    _rewrite_pickle(file, b"\x80\x02}X\x01\x00\x00\x00actorch\nFloatTensor\nK\x04\x85Rs.")
    assert f"{file} holds something other" in refusal(read_pickle, file)


def test_a_tensor_that_is_to_be_negated(checkpoint: Checkpoint) -> None:
    """Kernels read the bytes as they are."""
    file = checkpoint.folder / "other.bin"
    torch.save({"a": torch._neg_view(torch.ones(3))}, file)
    assert f"{file} holds something other" in refusal(read_pickle, file)


def test_an_empty_tensor_in_an_archive(checkpoint: Checkpoint) -> None:
    file = checkpoint.folder / "other.bin"
    torch.save({"a": torch.zeros(0, 3), "b": torch.ones(2)}, file)
    assert [tuple(value.shape) for value in read_pickle(file).values()] == [(0, 3), (2,)]


def test_weights_that_were_saved_with_gaps(checkpoint: Checkpoint) -> None:
    """They lie one behind another afterwards, as fast kernels need it, and the answer is the same bit for bit."""
    checkpoint.write("bin")
    expected = ChatGLMForCausalLM.from_pretrained(checkpoint.folder).eval()
    for name, value in checkpoint.tensors.items():
        checkpoint.tensors[name] = torch.stack([value, value], dim=-1)[..., 0]
    checkpoint.write("bin")
    model = ChatGLMForCausalLM.from_pretrained(checkpoint.folder).eval()
    assert all(parameter.is_contiguous() for parameter in model.parameters())
    ids = torch.tensor([[5, 9, model.config.gmask_token_id, model.config.bos_token_id]])
    assert torch.equal(model(ids).logits, expected(ids).logits)


@pytest.mark.parametrize("file_format", ["bin", "safetensors"])
def test_a_path_that_is_no_text(checkpoint: Checkpoint, file_format: str) -> None:
    checkpoint.write(file_format)
    folder = checkpoint.folder.rename(checkpoint.folder.with_name(os.fsdecode(b"\xff")))
    refused(folder, "its path is not valid UTF-8")


def test_a_field_that_is_there_twice(checkpoint: Checkpoint) -> None:
    file = checkpoint.folder / "config.json"
    text = file.read_text(encoding="utf-8").rstrip().removesuffix("}")
    file.write_text(f'{text}, "layernorm_epsilon": 0.5}}', encoding="utf-8")
    refused(checkpoint.folder, str(file), "'layernorm_epsilon' is there twice, with different values")
    file.write_text(f'{text}, "num_layers": {LAYERS}.0}}', encoding="utf-8")
    refused(checkpoint.folder, str(file), "'num_layers' is there twice, with different values")
    file.write_text(f'{text}, "model_type": "chatglm"}}', encoding="utf-8")
    ChatGLMForCausalLM.from_pretrained(checkpoint.folder)


@pytest.mark.parametrize("is_object", [True, False])
def test_what_could_be_read_and_not_copied(checkpoint: Checkpoint, is_object: bool) -> None:
    value: Any = 1
    for _ in range(300):
        value = {"a": value} if is_object else [value]
    checkpoint.configure(nested=value)
    refused(checkpoint.folder, "config.json", "nested too deeply")


@pytest.mark.parametrize("name", ["", "config.json", "ice_text.model", "tokenizer_config.json", "model.safetensors"])
def test_what_may_not_be_read(checkpoint: Checkpoint, name: str) -> None:
    place = checkpoint.folder / name
    mode = place.stat().st_mode
    place.chmod(0)
    try:
        with as_any_user(), pytest.raises(GLMError, match=f"{checkpoint.folder}.*Permission denied"):
            load(checkpoint.folder)
    finally:
        place.chmod(mode)


def _archive(folder: Path, golden: Path) -> Path:
    """Return the file of the second rank of a copy of a golden archive."""
    shutil.copytree(golden / GLM130B / "tp2", folder)
    return next(folder.glob("*/mp_rank_01_model_states.pt"))


def test_a_rank_that_may_not_be_read(tmp_path: Path, golden: Path) -> None:
    rank = _archive(tmp_path / "archive", golden)
    rank.chmod(0)
    with as_any_user(), pytest.raises(CheckpointError, match=f"{rank} cannot be read: Permission denied"):
        SatArchive(tmp_path / "archive")


@pytest.mark.parametrize("name", [b"a", 3, None])
def test_a_rank_with_names_that_are_no_texts(tmp_path: Path, golden: Path, name: Any) -> None:
    rank = _archive(tmp_path / "archive", golden)
    content = torch.load(rank, weights_only=True)
    content["module"][name] = torch.ones(1)
    torch.save(content, rank)
    with pytest.raises(CheckpointError, match=f"{rank} holds no 'module' of tensors"):
        SatArchive(tmp_path / "archive")


@pytest.mark.parametrize("is_archive", [True, False])
def test_a_rank_with_a_tensor_without_values(tmp_path: Path, golden: Path, is_archive: bool) -> None:
    rank = _archive(tmp_path / "archive", golden)
    content = torch.load(rank, weights_only=True)
    content["module"] = {name: value.to("meta") for name, value in content["module"].items()}
    torch.save(content, rank, _use_new_zipfile_serialization=is_archive)
    with pytest.raises(CheckpointError, match=f"{rank} holds "):
        SatArchive(tmp_path / "archive")


@pytest.mark.parametrize("bits", [4.0, 8.0, 0.0, False])
def test_bits_that_only_equal_a_whole_number(checkpoint: Checkpoint, bits: Any) -> None:
    checkpoint.configure(quantization_bit=bits)
    refused(checkpoint.folder, "config.json", "quantization_bit", str(bits))


@pytest.mark.parametrize("fields", [{"num_image_tokens": None}, {"padding_side": "right"}])
def test_what_a_tokenizer_cannot_be_names_its_folder(kept: Checkpoint, fields: dict[str, Any]) -> None:
    file = kept.folder / "tokenizer_config.json"
    with changed(file):
        file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | fields), encoding="utf-8")
        for entrance in (load, ChatGLMTokenizer.from_pretrained):
            with pytest.raises(GLMError, match=f"{kept.folder}.*{next(iter(fields))}"):
                entrance(kept.folder)


def test_a_vocabulary_of_gigabytes(kept: Checkpoint) -> None:
    file = kept.folder / "ice_text.model"
    with changed(file):
        with file.open("r+b") as stream:
            stream.truncate(3 << 30)
        with pytest.raises(GLMError, match=r"ice_text\.model has 3,221,225,472 bytes"):
            load(kept.folder)


# ---- programs


def test_programs_say_what_the_library_says(
    kept: Checkpoint, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = kept.folder / "config.json"
    with changed(file):
        change(file, "auto_map", 3)
        assert plan([f"--model={kept.folder}", "--gpus=24GB"]) == 1
        assert convert(["quantize", str(kept.folder), str(tmp_path / "to"), "--quantize=int4"]) == 1
        said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert all(f"{file}: auto_map is 3" in line for line in said)


def test_the_web_program_prints_no_escapes(kept: Checkpoint, capsys: pytest.CaptureFixture[str]) -> None:
    server = pytest.importorskip("app.web.server")
    server._fail("a\x1b]52;c;QUJD\x07b")
    assert "\x1b" not in capsys.readouterr().err


def test_an_archive_without_latest_is_converted_by_no_other_name(tmp_path: Path, golden: Path) -> None:
    """`sat` names what is missing: the file latest, and no model_config.json that was never there."""
    archive = tmp_path / "archive"
    shutil.copytree(golden / "glm130b_tiny" / "tp1", archive)
    assert f"{archive} has no model_config.json and does not say num_attention_heads" in refusal(SatArchive, archive)
    (archive / "latest").write_text("9" * 5000, encoding="utf-8")
    assert f"{archive / 'latest'} names step 999" in refusal(SatArchive, archive)
    (archive / "latest").unlink()
    assert "without its file 'latest'. Write the line 49300" in refusal(SatArchive, archive)
    assert "above it once" in refusal(SatArchive, archive / "49300")


# ---- a model that overflows


@pytest.fixture
def overflowing(kept: Checkpoint) -> tuple[Any, Any]:
    model, tokenizer = load(kept.folder)
    with torch.no_grad():
        model.lm_head.weight.fill_(3e38)
    return model, tokenizer


def test_an_overflow_ends_the_answer_of_a_front_end(overflowing: tuple[Any, Any]) -> None:
    model, tokenizer = overflowing
    ids = tokenizer("你好")["input_ids"]
    with pytest.raises(GLMError, match=r"NaN or infinite.*float16.*bfloat16 or float32"):
        list(stream_text(model, tokenizer, ids, SamplingOptions(max_length=60)))


def test_the_published_guard_warns_once(overflowing: tuple[Any, Any], caplog: pytest.LogCaptureFixture) -> None:
    model, tokenizer = overflowing
    with caplog.at_level(logging.WARNING):
        model.chat(tokenizer, "你好", max_length=12)
    told = [record.getMessage() for record in caplog.records if "NaN or infinite" in record.getMessage()]
    assert len(told) == 1
    assert "bfloat16 or float32" in told[0]
    scores = torch.full((1, 10), torch.nan)
    assert int(InvalidScoreLogitsProcessor()(torch.zeros(1, 1), scores).argmax()) == 5


def test_ranges_hold_for_configurations_made_by_hand() -> None:
    for wrong in ({"layernorm_epsilon": float("nan")}, {"num_layers": 10**9}, {"deepnorm_alpha": float("inf")}):
        with pytest.raises(Exception, match=next(iter(wrong))):
            GLM130BConfig(**wrong)


def test_read_json_reads_what_it_should(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"model_max_length": int(1e30), "b": [1, 2.5, None, "中文"]})
    assert read_json(tmp_path / "a.json")["b"] == [1, 2.5, None, "中文"]


@pytest.mark.parametrize("content", [b"\xff\xfe{{", None], ids=["no text", "gigabytes"])
def test_a_chat_template_that_is_none(kept: Checkpoint, content: bytes | None) -> None:
    file = kept.folder / "chat_template.jinja"
    with changed(file):
        file.write_bytes(content or b"")
        if content is None:
            os.truncate(file, 3 << 30)
        assert str(file) in refusal(load, kept.folder)


def test_a_pipe_is_no_file(kept: Checkpoint) -> None:
    """Reading it would wait for a writer for ever."""
    file = kept.folder / "generation_config.json"
    os.mkfifo(file)
    try:
        refused(kept.folder, str(file))
    finally:
        file.unlink()
