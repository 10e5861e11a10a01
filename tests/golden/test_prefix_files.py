"""The ways in which a P-tuning prefix comes with its base model: each gives the original's logits."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModel

from glm_model.checkpoint.prefix import load_prefix
from tests.golden.data import FP32, GOLDEN, TUNED, assert_close, expected

PUBLISHED_START = "transformer.prefix_encoder."


@pytest.fixture(params=TUNED)
def folder(request: pytest.FixtureRequest) -> str:
    return request.param


def trained(folder: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / folder / "model.safetensors")


@torch.no_grad()
def assert_tuned(model: torch.nn.Module, folder: str) -> None:
    values = expected(folder)
    assert_close(model.float().eval()(values["b.input_ids"]).logits, values["b.logits"])


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors"])
def test_a_file_of_the_fine_tuning_script(folder: str, file: str) -> None:
    model = AutoModel.from_pretrained(GOLDEN / FP32)
    load_prefix(model, GOLDEN / folder / file)
    assert_tuned(model, folder)


def test_a_file_whose_keys_lost_their_start(folder: str, tmp_path: Path) -> None:
    stripped = {name.removeprefix(PUBLISHED_START): value for name, value in trained(folder).items()}
    torch.save(stripped, tmp_path / "pytorch_model.bin")
    model = AutoModel.from_pretrained(GOLDEN / FP32)
    load_prefix(model, tmp_path)
    assert_tuned(model, folder)


def test_the_published_snippet(folder: str) -> None:
    """From the fine-tuning script's README: a configuration with a prefix, then the prefix by hand."""
    config = AutoConfig.from_pretrained(
        GOLDEN / FP32, trust_remote_code=True, pre_seq_len=8, prefix_projection=folder.endswith("true")
    )
    model = AutoModel.from_pretrained(GOLDEN / FP32, config=config, trust_remote_code=True)
    prefix_state_dict = torch.load(GOLDEN / folder / "pytorch_model.bin")
    new_prefix_state_dict = {}
    for key, value in prefix_state_dict.items():
        if key.startswith(PUBLISHED_START):
            new_prefix_state_dict[key[len(PUBLISHED_START) :]] = value
    model.transformer.prefix_encoder.load_state_dict(new_prefix_state_dict)
    assert_tuned(model, folder)


def merged(folder: str, to: Path) -> Path:
    """One folder with the base, the prefix and a configuration that names it, in the published layout."""
    save_file(load_file(GOLDEN / FP32 / "model.safetensors") | trained(folder), to / "model.safetensors")
    shutil.copy(GOLDEN / folder / "config.json", to)
    return to


def test_one_folder_with_base_and_prefix(folder: str, tmp_path: Path) -> None:
    assert_tuned(AutoModel.from_pretrained(merged(folder, tmp_path)), folder)


def test_saving_keeps_base_and_prefix(folder: str, tmp_path: Path) -> None:
    """Under their published names, all of them, bit by bit."""
    model = AutoModel.from_pretrained(merged(folder, tmp_path))
    model.save_pretrained(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    wanted = load_file(tmp_path / "model.safetensors")
    wanted = {name: value for name, value in wanted.items() if "inv_freq" not in name}
    assert saved.keys() == wanted.keys()
    assert all(torch.equal(saved[name], wanted[name]) for name in wanted)
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["pre_seq_len"] == 8
    assert_tuned(AutoModel.from_pretrained(tmp_path / "saved"), folder)
