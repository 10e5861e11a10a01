"""Beside our sentence nothing is written, and no progress bar into a file."""

import io
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, BertConfig, BertModel
from transformers.utils import logging as transformers_logging

from glm_model import CheckpointError, GLMQuantizationConfig
from tests.loading.conftest import Checkpoint

EMBEDDING, LAYER = "transformer.word_embeddings.weight", "transformer.layers.0.mlp.dense_h_to_4h.weight"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines_of_transformers(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in log.records if record.name.startswith("transformers")]


@pytest.mark.parametrize("shape", [(), (7,), (7, 3)])
@pytest.mark.parametrize("name", [EMBEDDING, LAYER])
def test_a_weight_that_cannot_be_packed(
    checkpoint: Checkpoint, log: pytest.LogCaptureFixture, name: str, shape: tuple[int, ...]
) -> None:
    checkpoint.tensors[name] = torch.ones(shape)
    checkpoint.write()
    wanted = GLMQuantizationConfig(4, embeddings=True)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors.*{name}") as caught:
        AutoModel.from_pretrained(checkpoint.folder, quantization_config=wanted)
    assert "\n" not in str(caught.value)
    assert not lines_of_transformers(log)


@pytest.mark.parametrize("name", [EMBEDDING, LAYER, "lm_head.weight"])
@pytest.mark.parametrize("change", ["lost", "another shape", "not finite"])
def test_other_faults(checkpoint: Checkpoint, log: pytest.LogCaptureFixture, name: str, change: str) -> None:
    tensors = checkpoint.tensors
    value = tensors.pop(name)
    if change == "another shape":
        tensors[name] = value[1:].clone()
    elif change == "not finite":
        tensors[name] = torch.full_like(value, float("nan"))
    checkpoint.write()
    if name == "lm_head.weight" and change != "another shape":  # the embedding is the head
        AutoModel.from_pretrained(checkpoint.folder)
    else:
        with pytest.raises(CheckpointError):
            AutoModel.from_pretrained(checkpoint.folder)
    assert not lines_of_transformers(log)


def test_a_report_that_was_asked_for(checkpoint: Checkpoint, log: pytest.LogCaptureFixture) -> None:
    checkpoint.tensors["transformer.final_layernorm.bias"] = torch.ones(3)
    checkpoint.write()
    AutoModel.from_pretrained(checkpoint.folder, ignore_mismatched_sizes=True)
    assert "MISMATCH" in " ".join(lines_of_transformers(log))


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_progress_bars_are_for_terminals(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO]
) -> None:
    transformers_logging.enable_progress_bar()
    written = stream()
    monkeypatch.setattr(sys, "stderr", written)
    assert transformers_logging.is_progress_bar_enabled()
    AutoModel.from_pretrained(checkpoint.folder)
    assert ("Loading weights" in written.getvalue()) is (stream is Terminal)
    assert transformers_logging.is_progress_bar_enabled()


def test_what_others_load_is_reported(checkpoint: Checkpoint, log: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """The filter is gone after a load, also after one that failed."""
    checkpoint.tensors.pop(LAYER)
    checkpoint.write()
    with pytest.raises(CheckpointError):
        AutoModel.from_pretrained(checkpoint.folder)
    sizes = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 4}
    bert = BertModel(BertConfig(vocab_size=8, **sizes))
    bert.save_pretrained(tmp_path, state_dict={"pooler.dense.bias": torch.ones(4)})
    BertModel.from_pretrained(tmp_path)
    assert "LOAD REPORT" in " ".join(lines_of_transformers(log))
