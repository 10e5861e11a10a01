"""Packing needs little more than the packed model: measured in processes of their own on a checkpoint of 310 MB."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints import random_tensors, write_json, write_weights
from tests.forks import Program

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's count of resident pages")

ROOT = Path(__file__).parent.parent.parent
CONFIG = {
    "model_type": "chatglm",
    "vocab_size": 2048,
    "hidden_size": 2048,
    "num_layers": 3,
    "num_attention_heads": 16,
    "inner_hidden_size": 8192,
    "bos_token_id": 2044,
    "eos_token_id": 2045,
    "mask_token_id": 2040,
    "gmask_token_id": 2041,
    "torch_dtype": "float16",
}
SHARDS = 4

# What is loaded besides the weights is loaded before the first look, by packing a model of a few kB.
MEASURED = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from glm_model import ChatGLMForCausalLM, GLMQuantizationConfig
from glm_model.conversion.quantize import quantize_checkpoint

def peak():
    # Not getrusage: what that says starts at the size of the process that started this one.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024

def load(folder):
    return ChatGLMForCausalLM.from_pretrained(folder, quantization_config=GLMQuantizationConfig(4))

def convert(folder):
    quantize_checkpoint(folder, Path(folder).with_name(Path(folder).name + "-packed"), 4)

small, large, job = sys.argv[1:]
warm_up = {"load": load, "convert": convert}[job](small)
before = peak()
model = {"load": load, "convert": convert}[job](large)
weights = {value.data_ptr(): value.nbytes for value in model.state_dict().values()} if model else {}
print(json.dumps({"peak": peak() - before, "model": sum(weights.values())}))
"""


@dataclass(frozen=True)
class Folders:
    """A small checkpoint and a large one, and the size of the largest shard of the latter."""

    small: Path
    large: Path
    shard: int


def write(folder: Path, config: dict[str, Any], file_format: str) -> None:
    folder.mkdir()
    write_json(folder / "config.json", config)
    tensors = random_tensors(config, torch.float32, 0)
    names = list(tensors)
    # `write_weights` deals tensors out to the shards in turns; in this order neighbours share one, as published.
    lengths = [len(names[shard::SHARDS]) for shard in range(SHARDS)]
    starts = [sum(lengths[:shard]) for shard in range(SHARDS)]
    order = [
        names[start + row]
        for row in range(max(lengths))
        for start, length in zip(starts, lengths, strict=True)
        if row < length
    ]
    write_weights(folder, {name: tensors[name] for name in order}, file_format, SHARDS)


def written(folder: Path, file_format: str) -> Folders:
    tiny = {"num_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "inner_hidden_size": 32}
    write(folder / "small", CONFIG | tiny, file_format)
    write(folder / "large", CONFIG, file_format)
    sizes = [file.stat().st_size for file in (folder / "large").glob(f"*.{file_format}")]
    assert len(sizes) == SHARDS
    return Folders(folder / "small", folder / "large", max(sizes))


def start(job: str, folders: Folders) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", MEASURED, str(folders.small), str(folders.large), job]
    return Program[str](command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def measured(process: subprocess.Popen[str]) -> dict[str, int]:
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    result: dict[str, int] = json.loads(output.splitlines()[-1])
    return result


@pytest.mark.parametrize("file_format", ["safetensors", "bin"])
def test_peak_memory(file_format: str, tmp_path: Path) -> None:
    """While loading: the packed model, a shard, and a tenth. On disk: a shard and what it becomes, so never two."""
    folders = written(tmp_path, file_format)
    loading, converting = start("load", folders), start("convert", folders)
    loaded, converted = measured(loading), measured(converting)
    assert 80e6 < loaded["model"] < 90e6
    assert loaded["peak"] <= 1.1 * (loaded["model"] + folders.shard)
    assert converted["peak"] <= 2 * folders.shard
