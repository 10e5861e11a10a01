"""``python -m glm_model.conversion quantize``: golden integers on disk, the rest as it was, whole or not at all."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from glm_model import ChatGLMForCausalLM, CheckpointError, GLMQuantizationConfig, load
from glm_model.conversion.__main__ import main
from glm_model.conversion.quantize import quantize_checkpoint
from tests import forks
from tests.checkpoints import FILES
from tests.loading.conftest import Checkpoint
from tests.quantization.data import EMBEDDING, HEAD, INT4, INT4_QE, PACKED, Packed

ROOT = Path(__file__).parent.parent.parent
DENSE = "transformer.layers.1.attention.dense.weight"


def stored(folder: Path) -> dict[str, Tensor]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def run(source: Path, target: Path, packed: Packed) -> int:
    arguments = ["quantize", str(source), str(target), "--quantize", f"int{packed.bits}"]
    return main([*arguments, *["--quantize-head"] * packed.embeddings])


@pytest.mark.parametrize("packed", PACKED, ids=str)
@pytest.mark.parametrize(("file_format", "shards"), FILES)
def test_golden_tensors(
    source: Checkpoint,
    packed: Packed,
    file_format: str,
    shards: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source.write(file_format, shards)
    target = tmp_path / "made" / "packed"
    assert run(source.folder, target, packed) == 0
    shown = capsys.readouterr()
    assert f"{target}: INT{packed.bits}, " in shown.out
    assert f"Packing to INT{packed.bits}: 100%" in shown.err

    tensors = stored(target)
    assert tensors.keys() == packed.tensors.keys() - ({HEAD} if not packed.embeddings else set())
    for name, value in tensors.items():
        wanted = packed.tensors[name]
        assert value.dtype == wanted.dtype, name
        assert torch.equal(value, wanted), name

    content = json.loads((target / "config.json").read_text(encoding="utf-8"))
    assert content == {
        **source.config,
        "quantization_bit": packed.bits,
        "quantization_embeddings": packed.embeddings,
    }
    assert len(list(target.glob("*.safetensors"))) == shards
    assert (target / "model.safetensors.index.json").exists() is (shards > 1)
    assert not list(target.parent.glob("*partial*"))


@pytest.mark.parametrize("embeddings", [False, True])
def test_it_equals_a_model_that_is_packed_and_saved(source: Checkpoint, embeddings: bool, tmp_path: Path) -> None:
    quantize_checkpoint(source.folder, tmp_path / "one", 4, embeddings)
    wanted = GLMQuantizationConfig(4, embeddings)
    model = ChatGLMForCausalLM.from_pretrained(source.folder, quantization_config=wanted)
    model.save_pretrained(tmp_path / "other")
    one, other = stored(tmp_path / "one"), stored(tmp_path / "other")
    assert {name for name in one if "inv_freq" not in name} == other.keys()
    assert all(torch.equal(one[name].float(), value.float()) for name, value in other.items())


def test_an_untied_head(source: Checkpoint, tmp_path: Path) -> None:
    source.tensors[HEAD] = torch.randn(512, 64).half()
    source.configure(tie_word_embeddings=False)
    source.write()
    quantize_checkpoint(source.folder, tmp_path / "blocks", 4)
    assert torch.equal(stored(tmp_path / "blocks")[HEAD], source.tensors[HEAD])
    quantize_checkpoint(source.folder, tmp_path / "all", 4, embeddings=True)
    tensors = stored(tmp_path / "all")
    assert torch.equal(tensors[EMBEDDING], INT4_QE.tensors[EMBEDDING])
    assert tensors[HEAD].dtype == torch.int8
    assert not torch.equal(tensors[HEAD], tensors[EMBEDDING])


def test_a_head_that_shares_the_memory_of_an_embedding_it_is_not_tied_to(source: Checkpoint, tmp_path: Path) -> None:
    source.tensors[HEAD] = source.tensors[EMBEDDING]
    source.configure(tie_word_embeddings=False)
    source.write("bin")
    quantize_checkpoint(source.folder, tmp_path / "packed", 4)
    tensors = stored(tmp_path / "packed")
    assert torch.equal(tensors[HEAD], tensors[EMBEDDING])


def test_a_shard_with_nothing_but_the_tied_head_is_left_out(source: Checkpoint, tmp_path: Path) -> None:
    """As the last of the eight shards of ChatGLM-6B."""
    names = [name for name in source.tensors if name != HEAD]
    source.tensors = {name: source.tensors[name] for name in [*names, HEAD]}
    source.write("bin", len(names) + 1)
    assert (source.folder / f"pytorch_model-{len(names) + 1:05}-of-{len(names) + 1:05}.bin").exists()
    quantize_checkpoint(source.folder, tmp_path / "packed", 4)
    assert len(list((tmp_path / "packed").glob(f"model-*-of-{len(names):05}.safetensors"))) == len(names)
    ChatGLMForCausalLM.from_pretrained(tmp_path / "packed")


def test_other_files_come_along(chat: Checkpoint, tmp_path: Path) -> None:
    (chat.folder / "README.md").write_text("a model card", encoding="utf-8")
    (chat.folder / ".git").mkdir()
    (chat.folder / ".gitattributes").write_text("*.bin lfs", encoding="utf-8")
    chat.write("bin", 2)
    target = tmp_path / "packed"
    quantize_checkpoint(chat.folder, target, 8)
    names = {file.name for file in target.iterdir()}
    others = {"README.md", "ice_text.model", "tokenizer_config.json", "config.json"}
    assert names == others | {
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    }
    model, tokenizer = load(target, device="cpu")
    assert isinstance(model.chat(tokenizer, "你好", max_length=20, do_sample=False)[0], str)


def test_as_a_command(source: Checkpoint, tmp_path: Path) -> None:
    target = tmp_path / "packed"
    folders = [str(source.folder), str(target)]
    command = [sys.executable, "-m", "glm_model.conversion", "quantize", *folders, "--quantize", "int4"]
    done = forks.run(command, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert torch.equal(stored(target)[DENSE], INT4.tensors[DENSE])


# ---- what goes wrong


def test_a_target_that_is_there(source: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "mine").write_text("", encoding="utf-8")
    assert run(source.folder, target, INT4) == 1
    assert f"conversion: {target} is there already" in capsys.readouterr().err
    assert [file.name for file in target.iterdir()] == ["mine"]
    (target / "mine").unlink()
    assert run(source.folder, target, INT4) == 0


def test_a_source_that_is_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(INT4.folder, tmp_path / "target", INT4) == 1
    assert f"{INT4.folder} is INT4 already" in capsys.readouterr().err


def test_a_source_whose_config_cannot_be(
    source: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.configure(quantization_bit=3)
    assert run(source.folder, tmp_path / "packed", INT4) == 1
    assert "config.json: Validation error for field 'quantization_bit'" in capsys.readouterr().err
    assert not (tmp_path / "packed").exists()


def test_a_source_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "nothing", tmp_path / "target", INT4) == 1
    assert "config.json does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_without_a_scale(source: Checkpoint, value: float, tmp_path: Path) -> None:
    source.tensors[DENSE][0, 0] = value
    source.write("safetensors", 3)
    with pytest.raises(CheckpointError, match=rf"\.safetensors: {DENSE} holds values that are NaN or infinite\."):
        quantize_checkpoint(source.folder, tmp_path / "target", 4)
    assert not [file for file in tmp_path.iterdir() if file.name.startswith("target")]


def test_odd_widths(source: Checkpoint, tmp_path: Path) -> None:
    source.tensors[DENSE] = torch.ones(64, 63).half()
    source.write()
    with pytest.raises(CheckpointError, match=f"{DENSE}: 63 columns are odd"):
        quantize_checkpoint(source.folder, tmp_path / "target", 4)


def test_other_bits(source: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bits must be 4 or 8, not 2"):
        quantize_checkpoint(source.folder, tmp_path / "target", 2)
    for wrong in (["--quantize", "int2"], ["--bits", "2"], []):
        with pytest.raises(SystemExit) as left:
            main(["quantize", str(source.folder), str(tmp_path / "target"), *wrong])
        assert left.value.code == 2


def test_published_spellings(source: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Commands of earlier releases make the same, and nothing tells of them."""
    given = ["quantize", str(source.folder)]
    assert main([*given, str(tmp_path / "new"), "--quantize", "int4", "--quantize-head"]) == 0
    assert main([*given, str(tmp_path / "old"), "--bits", "4", "--embeddings"]) == 0
    new, old = stored(tmp_path / "new"), stored(tmp_path / "old")
    assert new.keys() == old.keys()
    assert all(torch.equal(new[name], old[name]) for name in new)
    with pytest.raises(SystemExit):
        main(["quantize", "--help"])
    shown = capsys.readouterr().out
    assert "--quantize-head" in shown
    assert "--bits" not in shown
    assert "--embeddings" not in shown


def test_a_full_disk(source: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that looks like a checkpoint stays behind."""

    def save(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("glm_model.conversion.quantize.save_file", save)
    assert run(source.folder, tmp_path / "target", INT4) == 1
    assert not [file for file in tmp_path.iterdir() if file.name.startswith("target")]
