"""P-Tuning v2 prefixes: with the model, from the fine-tuning script's file, by its README and by our shorter way."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel

from glm_model import ChatGLMForCausalLM, CheckpointError, GLM130BConfig, GLM130BForCausalLM, UnsupportedError, load
from glm_model import load_prefix as put_prefix
from tests.checkpoints import FILES, write_checkpoint
from tests.golden.data import FP32, GOLDEN, TUNED, assert_close, expected
from tests.loading.conftest import Checkpoint

START = "transformer.prefix_encoder."


def assert_tuned(model: ChatGLMForCausalLM, folder: str) -> None:
    values = expected(folder)
    with torch.no_grad():
        assert_close(model(values["a.input_ids"]).logits, values["a.logits"])
    generated = model.generate(values["a.input_ids"], max_new_tokens=24, do_sample=False)
    assert torch.equal(generated, values["a.greedy_sequences"])


def trained(folder: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / folder / "model.safetensors")


# ---- the way of the fine-tuning repository


@pytest.mark.parametrize("folder", TUNED)
def test_readme_of_the_fine_tuning(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its code as it stands, but for the paths and for what there is no GPU for."""
    projects = folder.endswith("true")
    base = GOLDEN / FP32
    config = AutoConfig.from_pretrained(base, trust_remote_code=True, pre_seq_len=8, prefix_projection=projects)
    model = AutoModel.from_pretrained(base, config=config, trust_remote_code=True)
    assert "it starts untrained" in caplog.text
    prefix_state_dict = torch.load(GOLDEN / folder / "pytorch_model.bin")
    new_prefix_state_dict = {}
    for k, v in prefix_state_dict.items():
        if k.startswith("transformer.prefix_encoder."):
            new_prefix_state_dict[k[len("transformer.prefix_encoder.") :]] = v
    model.transformer.prefix_encoder.load_state_dict(new_prefix_state_dict)
    model.transformer.prefix_encoder.float()
    model = model.eval()
    assert_tuned(model, folder)


def test_a_new_prefix_is_all_that_is_trained() -> None:
    model = AutoModel.from_pretrained(GOLDEN / FP32, pre_seq_len=8, prefix_projection=True)
    trained_names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained_names == {name for name, _ in model.named_parameters() if "prefix_encoder" in name}
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    encoder = model.transformer.prefix_encoder
    assert encoder.embedding.weight.std() > 0
    assert encoder.trans[0].weight.std() > 0


# ---- load_prefix


@pytest.mark.parametrize("folder", TUNED)
@pytest.mark.parametrize("name", ["", "pytorch_model.bin", "model.safetensors"])
def test_from_the_scripts_folder_or_file(folder: str, name: str) -> None:
    model = AutoModel.from_pretrained(GOLDEN / FP32)
    put_prefix(model, GOLDEN / folder / name)
    assert_tuned(model, folder)


@pytest.mark.parametrize("folder", TUNED)
@pytest.mark.parametrize("start", ["", START, "prefix_encoder.", "model.prefix_encoder.", f"module.{START}"])
@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_with_and_without_key_prefix(tmp_path: Path, folder: str, start: str, suffix: str) -> None:
    tensors = {start + name.removeprefix(START): tensor for name, tensor in trained(folder).items()}
    file = tmp_path / f"prefix{suffix}"
    (torch.save if suffix == ".bin" else save_file)(tensors, file)
    model = AutoModel.from_pretrained(GOLDEN / FP32)
    put_prefix(model, file)
    assert_tuned(model, folder)


def test_over_another_prefix() -> None:
    """The file decides on length and kind, not what the model had before."""
    model = AutoModel.from_pretrained(GOLDEN / FP32, pre_seq_len=3)
    for folder in (*TUNED, TUNED[0]):
        put_prefix(model, GOLDEN / folder)
        assert model.config.pre_seq_len == 8
        assert model.config.prefix_projection is folder.endswith("true")
        assert_tuned(model, folder)


def test_from_a_whole_checkpoint(tmp_path: Path) -> None:
    tuned = AutoModel.from_pretrained(GOLDEN / FP32)
    put_prefix(tuned, GOLDEN / TUNED[1])
    tuned.save_pretrained(tmp_path)
    model = AutoModel.from_pretrained(GOLDEN / FP32)
    put_prefix(model, tmp_path)
    assert_tuned(model, TUNED[1])


def test_a_half_model_keeps_a_float32_prefix() -> None:
    model = AutoModel.from_pretrained(GOLDEN / FP32).half()
    put_prefix(model, GOLDEN / TUNED[0])
    assert model.transformer.prefix_encoder.embedding.weight.dtype == torch.float32
    values = expected(TUNED[0])
    with torch.no_grad():
        logits = model(values["a.input_ids"]).logits
    assert logits.dtype == torch.float16
    assert_close(logits.float(), values["a.logits"], 2e-2)


def test_dropout_follows_the_model() -> None:
    model = AutoModel.from_pretrained(GOLDEN / FP32)
    put_prefix(model, GOLDEN / TUNED[0])
    assert not model.transformer.prefix_encoder.dropout.training
    put_prefix(model.train(), GOLDEN / TUNED[0])
    assert model.transformer.prefix_encoder.dropout.training


def test_dropout_is_drawn_for_each_sequence() -> None:
    model = AutoModel.from_pretrained(GOLDEN / FP32)
    put_prefix(model, GOLDEN / TUNED[0])
    ids = torch.tensor([[11, 12, model.config.gmask_token_id, model.config.bos_token_id]] * 3)
    first, *others = model(ids).logits
    assert all(torch.allclose(first, other) for other in others)
    first, *others = model.train()(ids).logits
    assert not any(torch.allclose(first, other) for other in others)


def test_load_with_a_prefix(checkpoint: Checkpoint, tmp_path: Path) -> None:
    config = checkpoint.config
    prefix = torch.randn(5, 2 * config["num_layers"] * config["hidden_size"])
    save_file({f"{START}embedding.weight": prefix}, tmp_path / "prefix.safetensors")
    for dtype in ("float32", "float16"):
        model, tokenizer = load(checkpoint.folder, prefix=tmp_path / "prefix.safetensors", dtype=dtype)
        assert torch.equal(model.transformer.prefix_encoder.embedding.weight, prefix)
        assert not model.training
        answer, _ = model.chat(tokenizer, "你好", max_length=24, do_sample=False)
        assert isinstance(answer, str)


# ---- a prefix inside a whole checkpoint


@pytest.mark.parametrize("projects", [False, True])
@pytest.mark.parametrize(("file_format", "shards"), FILES)
def test_whole_checkpoint(tmp_path: Path, projects: bool, file_format: str, shards: int) -> None:
    tensors = write_checkpoint(
        tmp_path, hidden=8, file_format=file_format, shards=shards, pre_seq_len=4, prefix_projection=projects
    )
    model, _ = load(tmp_path, dtype="float16")
    encoder = model.transformer.prefix_encoder.state_dict()
    stored = {name.removeprefix(START): tensor for name, tensor in tensors.items() if name.startswith(START)}
    assert encoder.keys() == stored.keys()
    assert all(torch.equal(encoder[name], tensor) for name, tensor in stored.items())


@pytest.mark.parametrize("folder", TUNED)
def test_saved_and_loaded_again(tmp_path: Path, folder: str) -> None:
    """Under the published names, whether the base's file had a prefix or not."""
    model = AutoModel.from_pretrained(GOLDEN / FP32)
    put_prefix(model, GOLDEN / folder)
    for target in ("first", "second"):
        model.save_pretrained(tmp_path / target)
        saved = load_file(tmp_path / target / "model.safetensors")
        assert {name for name in saved if "prefix" in name} == trained(folder).keys()
        model = AutoModel.from_pretrained(tmp_path / target)
        assert_tuned(model, folder)


# ---- what is refused


@pytest.mark.parametrize("name", ["embedding.weight", "trans.0.bias", "trans.2.weight"])
def test_half_a_prefix(checkpoint: Checkpoint, tmp_path: Path, name: str) -> None:
    tensors = write_checkpoint(tmp_path, hidden=8, pre_seq_len=4, prefix_projection=True)
    del tensors[START + name]
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=f"lacks {START}{name}"):
        AutoModel.from_pretrained(tmp_path)


def test_nothing_else_may_be_missing(checkpoint: Checkpoint) -> None:
    del checkpoint.tensors["transformer.layers.0.mlp.dense_h_to_4h.bias"]
    checkpoint.write()
    checkpoint.configure(pre_seq_len=4)
    with pytest.raises(CheckpointError, match=r"lacks transformer\.layers\.0\.mlp\.dense_h_to_4h\.bias\."):
        AutoModel.from_pretrained(checkpoint.folder)


def test_load_gives_no_untrained_prefix(checkpoint: Checkpoint) -> None:
    """A front-end must not babble; the fine-tuning script wants exactly that, through from_pretrained."""
    checkpoint.configure(pre_seq_len=4)
    with pytest.raises(CheckpointError, match="pre_seq_len"):
        load(checkpoint.folder)


@pytest.mark.parametrize("folder", TUNED)
def test_a_prefix_is_no_model(folder: str) -> None:
    with pytest.raises(CheckpointError, match="prefix alone: load the base model"):
        AutoModel.from_pretrained(GOLDEN / folder)


def test_a_prefix_that_the_configuration_does_not_know(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, hidden=8, pre_seq_len=4)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin holds .*prefix_encoder.*needs pre_seq_len"):
        AutoModel.from_pretrained(tmp_path, pre_seq_len=None)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"embedding.weight": torch.zeros(8, 384 + 64)}, r"\[8, 448\].*\[length, 384\]"),
        ({"embedding.weight": torch.zeros(0, 384)}, r"\[0, 384\]"),
        ({"embedding.weight": torch.tensor(1.0)}, r"\[\]"),
        ({"embedding.weight": torch.zeros(8, 384, dtype=torch.int64)}, "int64"),
        ({"embedding.weight": torch.full((8, 384), float("nan"))}, "NaN"),
        ({"embedding.weight": torch.zeros(8, 64), "trans.0.weight": torch.zeros(64, 64)}, "no P-Tuning prefix"),
        ({"trans.0.weight": torch.zeros(64, 64)}, "no P-Tuning prefix"),
        ({}, "no P-Tuning prefix"),
    ],
    ids=[
        "another size",
        "no rows",
        "one number",
        "integers",
        "not finite",
        "half a projection",
        "no embedding",
        "nothing",
    ],
)
def test_what_is_no_prefix(tmp_path: Path, tensors: dict[str, Tensor], words: str) -> None:
    file = tmp_path / "pytorch_model.bin"
    torch.save(tensors, file)
    model = AutoModel.from_pretrained(GOLDEN / FP32)
    for path in (file, tmp_path):
        with pytest.raises(CheckpointError, match=f"{tmp_path}.*{words}"):
            put_prefix(model, path)
    assert model.transformer.prefix is None
    assert model.config.pre_seq_len is None


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "there is no"), (b"version https://git-lfs.github.com", "Git-LFS"), (b"noise", "damaged")],
)
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "pytorch_model.bin"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{file}.*{words}|{words}.*{file}"):
        put_prefix(AutoModel.from_pretrained(GOLDEN / FP32), file)


def test_glm130b_has_no_prefix() -> None:
    sizes: dict[str, Any] = {"hidden_size": 16, "num_layers": 1, "num_attention_heads": 2, "inner_hidden_size": 16}
    model = GLM130BForCausalLM(GLM130BConfig(vocab_size=32, pad_token_id=0, **sizes))
    with pytest.raises(UnsupportedError, match="ChatGLM-6B"):
        put_prefix(model, GOLDEN / TUNED[0])
