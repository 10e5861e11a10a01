"""The README of ChatGLM-6B, word for word, on folders in the published layout, whose own code must never run."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

import glm_model
from tests import checkpoints
from tests.checkpoints import FILES, VOCABULARIES, write_checkpoint


@pytest.fixture(scope="module", params=VOCABULARIES)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chatglm-6b")
    write_checkpoint(folder, vocab=request.param, shards=3)
    return folder


@pytest.fixture(autouse=True)
def no_module_of_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Any use of the folder's code would copy it here and raise; afterwards nothing may be there."""
    cache = tmp_path / "modules"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(cache))
    yield
    assert not list(cache.rglob("*chatglm*"))


def test_on_a_cpu(published: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(published, trust_remote_code=True)
    model = AutoModel.from_pretrained(published, trust_remote_code=True).float()
    model = model.eval()
    response, history = model.chat(tokenizer, "你好", history=[], max_length=16)
    assert response
    assert history == [("你好", response)]
    response, history = model.chat(tokenizer, "晚上睡不着应该怎么办", history=history, max_length=64)
    assert len(history) == 2
    *_, (streamed, rounds) = model.stream_chat(tokenizer, "你好", history=[], max_length=16)
    assert streamed
    assert rounds == [("你好", streamed)]


def test_in_half(published: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(published, trust_remote_code=True)
    model = AutoModel.from_pretrained(published, trust_remote_code=True).half()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
    response, _ = model.chat(tokenizer, "你好", history=[], max_length=12)
    assert response


def test_ids_of_the_vocabulary(published: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(published, trust_remote_code=True)
    config = AutoConfig.from_pretrained(published, trust_remote_code=True)
    assert isinstance(tokenizer, glm_model.ChatGLMTokenizer)
    assert isinstance(config, glm_model.ChatGLMConfig)
    first = 20000 if config.vocab_size == 150528 else 0
    assert tokenizer.encode("")[-2:] == [config.gmask_token_id, config.bos_token_id] == [130001 + first, 130004 + first]
    assert config.pad_token_id == tokenizer.pad_token_id == 3 + first
    assert len(tokenizer) <= config.vocab_size


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM])
def test_every_auto_class(published: Path, auto_class: Any) -> None:
    for trust in ({"trust_remote_code": True}, {"trust_remote_code": False}, {}):
        assert type(auto_class.from_pretrained(published, **trust)) is glm_model.ChatGLMForCausalLM


@pytest.mark.parametrize(("file_format", "shards"), FILES)
def test_every_kind_of_file(tmp_path: Path, file_format: str, shards: int) -> None:
    tensors = write_checkpoint(tmp_path, hidden=8, file_format=file_format, shards=shards)
    model = AutoModel.from_pretrained(tmp_path, trust_remote_code=True)
    weight = model.model.layers[1].self_attn.query_key_value.weight
    assert torch.equal(weight, tensors["transformer.layers.1.attention.query_key_value.weight"])
    assert torch.equal(model.lm_head.weight, tensors["transformer.word_embeddings.weight"])


def test_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = "--vocab 150528 --hidden 8 --shards 2 --format safetensors"
    monkeypatch.setattr("sys.argv", ["checkpoints", str(tmp_path), *arguments.split()])
    checkpoints.main()
    model, tokenizer = glm_model.load(tmp_path)
    assert model.config.vocab_size == 150528
    assert tokenizer.gmask_token_id == 150001


def test_the_trap_works(tmp_path: Path) -> None:
    """Without this package the folder's code is what transformers runs."""
    write_checkpoint(tmp_path / "chatglm-6b", hidden=8)
    snippet = "import transformers; transformers.AutoModel.from_pretrained('chatglm-6b', trust_remote_code=True)"
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", snippet]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert "configuration_chatglm.py of the checkpoint was run" in done.stderr
