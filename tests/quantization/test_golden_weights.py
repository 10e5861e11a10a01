"""Integers, scales and dequantized weights of the original, bit for bit; its logits and tokens are in tests/golden."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from glm_model import ChatGLMForCausalLM
from glm_model.kernels.packing import dequantize, quantize, unpack
from tests.golden.data import assert_close
from tests.quantization.data import INT4, PACKED, SOURCE, Packed
from tests.quantization.rounding import integers_of

FLOAT32_SCALES = INT4.folder / "pytorch_model_scale_float32.bin"


@pytest.mark.parametrize("packed", PACKED, ids=str)
def test_integers_and_scales(packed: Packed) -> None:
    source = load_file(SOURCE)
    assert len(packed.scales) == 12 + 2 * packed.embeddings
    for name, wanted_scale in packed.scales.items():
        integers, scale = quantize(source[name], packed.bits)
        assert torch.equal(scale, wanted_scale), name
        assert torch.equal(integers, packed.tensors[name]), name
        assert unpack(integers, packed.bits).tolist() == integers_of(packed.tensors[name], packed.bits)


@pytest.mark.parametrize("packed", PACKED, ids=str)
def test_dequantized_weights(packed: Packed) -> None:
    """In float32 as its CPU kernel, in half as its CUDA kernel."""
    expected = load_file(packed.folder / "expected.safetensors")
    wanted = {name: value for name, value in expected.items() if name.startswith("dequant")}
    assert len(wanted) == {"int8": 8, "int4": 16, "int4_qe": 1}[packed.name]
    for name, value in wanted.items():
        weight = name.partition(".")[2]
        found = dequantize(packed.tensors[weight], packed.scales[weight], packed.bits, value.dtype)
        assert torch.equal(found, value), name


@pytest.mark.parametrize("packed", PACKED, ids=str)
def test_both_file_formats_hold_the_same(packed: Packed) -> None:
    models = [
        ChatGLMForCausalLM.from_pretrained(packed.folder, use_safetensors=safetensors).state_dict()
        for safetensors in (True, False)
    ]
    assert models[0].keys() == models[1].keys()
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


@pytest.fixture
def float32_scales(tmp_path: Path) -> Path:
    """The layout of the first published INT4 file."""
    shutil.copyfile(INT4.folder / "config.json", tmp_path / "config.json")
    shutil.copyfile(FLOAT32_SCALES, tmp_path / "pytorch_model.bin")
    return tmp_path


@torch.no_grad()
def test_scales_in_float32(float32_scales: Path) -> None:
    expected = load_file(INT4.folder / "expected_scale_float32.safetensors")
    model = ChatGLMForCausalLM.from_pretrained(float32_scales).float().eval()
    assert_close(model(expected["a.input_ids"]).logits, expected["a.logits"])
    dense = model.model.layers[0].self_attn.dense
    assert dense.weight_scale.dtype == torch.float32
    found = dequantize(dense.weight, dense.weight_scale, 4, torch.float32)
    assert torch.equal(found, expected["dequant.transformer.layers.0.attention.dense.weight"])


def test_scales_in_float32_are_never_rounded(float32_scales: Path, tmp_path: Path) -> None:
    stored = torch.load(FLOAT32_SCALES, weights_only=True)
    name = "transformer.layers.0.attention.dense.weight_scale"
    stored[name] *= 1.0001  # what half cannot hold
    torch.save(stored, float32_scales / "pytorch_model.bin")
    model = ChatGLMForCausalLM.from_pretrained(float32_scales, dtype=torch.float16).half()
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(load_file(tmp_path / "saved" / "model.safetensors")[name], stored[name])
