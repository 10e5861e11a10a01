"""What `load` does beyond the values: devices, dtypes, paths, and its sentences for what it cannot do."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

import glm_model
from glm_model import ChatGLMForCausalLM, ChatGLMTokenizer, CheckpointError, GLMError, load
from glm_model.loading import DEMO_MODEL
from tests.checkpoints import write_checkpoint, write_json, write_tokenizer
from tests.golden.data import CHAT, GOLDEN
from tests.loading.conftest import Checkpoint


def test_the_published_answers() -> None:
    model, tokenizer = load(GOLDEN / CHAT)
    wanted = json.loads((GOLDEN / CHAT / "expected.json").read_text(encoding="utf-8"))["chat"][0]
    response, _ = model.chat(tokenizer, wanted["query"], history=[], do_sample=False)
    assert response == wanted["response"]
    assert isinstance(tokenizer, ChatGLMTokenizer)


def test_automatic_choices(checkpoint: Checkpoint) -> None:
    model, _ = load(checkpoint.folder)
    on_cpu = not torch.accelerator.is_available()
    assert (model.device.type == "cpu") is on_cpu
    assert model.dtype == (torch.float32 if on_cpu else torch.float16)


def test_a_path_as_users_write_it(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(checkpoint.folder.parent))
    monkeypatch.chdir(checkpoint.folder.parent)
    for path in (str(checkpoint.folder), "checkpoint", "./checkpoint/", "~/checkpoint", Path("checkpoint")):
        assert load(path, device="cpu")[0].config.hidden_size == checkpoint.config["hidden_size"]


def test_from_the_cache_of_the_hub(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was downloaded once is found by its name; its files are links to a common store."""
    repository = tmp_path / "hub" / "models--THUDM--chatglm-6b"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123abcd")
    shutil.copytree(checkpoint.folder, repository / "blobs")
    (repository / "snapshots" / "0123abcd").mkdir(parents=True)
    for file in (repository / "blobs").iterdir():
        (repository / "snapshots" / "0123abcd" / file.name).symlink_to(file)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    model, _ = load("THUDM/chatglm-6b", device="cpu")
    assert model.config.hidden_size == checkpoint.config["hidden_size"]


@pytest.mark.parametrize("path", ["nowhere", "/nowhere/at/all", "THUDM/chatglm-6b", "", "a/b/c", "~no-such-user/x"])
def test_no_such_folder(path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert path in str(caught.value) or not path


def test_a_file_in_place_of_the_folder(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="is a file; name the folder"):
        load(checkpoint.folder / "model.safetensors")


def test_the_demo_model_lies_in_the_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert Path(__file__).parents[2] / "models" / "demo" == DEMO_MODEL == glm_model.DEMO_MODEL
    monkeypatch.setattr("glm_model.loading.DEMO_MODEL", tmp_path / "demo")
    with pytest.raises(CheckpointError, match="demo model is not at"):
        load(tmp_path / "demo")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"device": "gpu"}, ValueError, "device must be auto, cpu, cuda"),
        ({"device": "cuda:99"}, ValueError, "'cuda:99' is not there"),
        ({"device": "meta"}, ValueError, "'meta' is not there"),
        ({"dtype": "half"}, ValueError, "dtype must be one of auto, float32, float16, bfloat16; not 'half'"),
        ({"quantize": "int3"}, ValueError, "quantize must be one of int8, int4, or None; not 'int3'"),
    ],
)
def test_options_that_cannot_be(checkpoint: Checkpoint, options: dict[str, Any], error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        load(checkpoint.folder, **options)


@pytest.mark.parametrize(("vocabulary", "other"), [(130528, 150528), (150528, 130528)])
def test_tokenizer_of_the_other_vocabulary(tmp_path: Path, vocabulary: int, other: int) -> None:
    write_checkpoint(tmp_path, vocab=vocabulary, hidden=8)
    write_tokenizer(tmp_path, other)
    words = f"mask_token_id is {vocabulary - 528} in config.json but {other - 528} in the tokenizer"
    with pytest.raises(CheckpointError, match=words):
        load(tmp_path)


def test_tokenizer_missing(checkpoint: Checkpoint) -> None:
    (checkpoint.folder / "ice_text.model").unlink()
    with pytest.raises(GLMError, match=r"ice_text\.model"):
        load(checkpoint.folder)


def test_generation_works_without_settings_of_its_own(checkpoint: Checkpoint) -> None:
    """A published folder has no generation_config.json; one that was saved here has."""
    model, tokenizer = load(checkpoint.folder)
    model.save_pretrained(checkpoint.folder)
    tokenizer.save_pretrained(checkpoint.folder)
    assert (checkpoint.folder / "generation_config.json").is_file()
    again, same_tokenizer = load(checkpoint.folder)
    for settings in ({"do_sample": False}, {"do_sample": False, "num_beams": 2}):
        wanted, _ = model.chat(tokenizer, "你好", max_length=24, **settings)
        assert again.chat(same_tokenizer, "你好", max_length=24, **settings)[0] == wanted


@pytest.mark.parametrize("entrance", [load, ChatGLMForCausalLM.from_pretrained, AutoModel.from_pretrained])
def test_the_configuration_is_read_once(
    checkpoint: Checkpoint, entrance: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a generation_config.json transformers looks there once more, for settings of generation."""
    write_json(checkpoint.folder / "generation_config.json", {})
    opened: list[str] = []

    def counted(file: Any, *args: Any, **kwargs: Any) -> Any:
        opened.append(str(file))
        return open_file(file, *args, **kwargs)

    open_file = io.open
    monkeypatch.setattr("io.open", counted)
    monkeypatch.setattr("builtins.open", counted)
    entrance(checkpoint.folder)
    assert opened.count(str(checkpoint.folder / "config.json")) == 1


def test_no_network(checkpoint: Checkpoint) -> None:
    """Not even an attempt, without any setting that says offline."""
    program = f"""
import sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise SystemExit(f"{{event}} {{arguments}}")
sys.addaudithook(refuse)
import glm_model
from transformers import AutoModel, AutoTokenizer
glm_model.load({str(checkpoint.folder)!r})
AutoModel.from_pretrained({str(checkpoint.folder)!r}, trust_remote_code=True)
AutoTokenizer.from_pretrained({str(checkpoint.folder)!r}, trust_remote_code=True)
"""
    environment = {name: value for name, value in os.environ.items() if "OFFLINE" not in name}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
