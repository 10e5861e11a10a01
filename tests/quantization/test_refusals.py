"""Packed checkpoints that contradict themselves, and float ones that cannot be packed: refused by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoModel

from glm_model import ChatGLMConfig, ChatGLMForCausalLM, CheckpointError, GLMQuantizationConfig
from tests.loading.conftest import Checkpoint
from tests.quantization.conftest import packed_copy
from tests.quantization.data import EMBEDDING, INT4, INT4_QE, INT8, Packed

DENSE = "transformer.layers.1.attention.dense.weight"
SCALE = f"{DENSE}_scale"


@pytest.fixture
def int4(tmp_path: Path) -> Checkpoint:
    return packed_copy(tmp_path / "int4", INT4.folder)


def refused(checkpoint: Checkpoint, *words: str, **options: Any) -> None:
    """Written and loaded, from both kinds of file, it ends in an error with all of these words."""
    for file_format in ("safetensors", "bin"):
        checkpoint.write(file_format)
        with pytest.raises(CheckpointError) as caught:
            AutoModel.from_pretrained(checkpoint.folder, **options)
        for word in words:
            assert word in str(caught.value), str(caught.value)


# ---- scales


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda scale: scale * 0, "has scales of 0 for rows that are not 0"),
        (lambda scale: torch.cat([scale[:-1], scale[-1:] * 0]), "has scales of 0"),
        (lambda scale: scale * float("nan"), "has scales that are NaN or infinite"),
        (lambda scale: torch.cat([scale[:3], torch.tensor([float("inf")]).half(), scale[4:]]), "NaN or infinite"),
        (lambda scale: -scale, "has negative scales"),
    ],
    ids=["zero", "one zero", "nan", "one infinite", "negative"],
)
def test_damaged_scales(int4: Checkpoint, damage: Callable[[Tensor], Tensor], words: str) -> None:
    int4.tensors[SCALE] = damage(int4.tensors[SCALE])
    refused(int4, str(int4.folder), DENSE, words)


@pytest.mark.parametrize("shape", [(63,), (65,), (64, 1), (1,), ()], ids=str)
def test_scales_of_another_shape(int4: Checkpoint, shape: tuple[int, ...]) -> None:
    int4.tensors[SCALE] = torch.ones(shape).half()
    refused(int4, SCALE, f"has shape {list(shape)}", "one scale per row, [64]")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.int8], ids=str)
def test_scales_of_another_dtype(int4: Checkpoint, dtype: torch.dtype) -> None:
    int4.tensors[SCALE] = int4.tensors[SCALE].to(dtype)
    refused(int4, SCALE, f"is {str(dtype)[6:]}; scales are float16 or float32")


def test_missing_scales(int4: Checkpoint) -> None:
    del int4.tensors[SCALE]
    refused(int4, f"lacks {SCALE}")


def test_a_quantization_config_in_the_file_that_says_otherwise(int4: Checkpoint) -> None:
    int4.configure(quantization_config={"quant_method": "glm", "bits": 8})
    refused(int4, "is INT4 by its shape", "quantization_bit 8")


def test_a_row_of_zeros_has_scale_zero(int4: Checkpoint) -> None:
    """As the original packs it, and this package."""
    int4.tensors[DENSE][5], int4.tensors[SCALE][5] = 0, 0
    int4.write()
    model = AutoModel.from_pretrained(int4.folder).float()
    assert bool(model(torch.tensor([[5, 501, 504]])).logits.isfinite().all())


def test_the_embedding_counts_too(tmp_path: Path) -> None:
    checkpoint = packed_copy(tmp_path / "qe", INT4_QE.folder)
    checkpoint.tensors[f"{EMBEDDING}_scale"][7] = 0
    refused(checkpoint, EMBEDDING, "has scales of 0")


# ---- config.json against the tensors


@pytest.mark.parametrize(("packed", "other"), [(INT4, 8), (INT8, 4)], ids=str)
def test_another_number_of_bits(packed: Packed, other: int, tmp_path: Path) -> None:
    checkpoint = packed_copy(tmp_path / "copy", packed.folder)
    checkpoint.configure(quantization_bit=other)
    refused(
        checkpoint, ".dense.weight", f"is INT{packed.bits} by its shape", f"config.json has quantization_bit {other}"
    )


@pytest.mark.parametrize("absent", [0, None])
def test_packed_weights_that_config_does_not_tell_of(int4: Checkpoint, absent: int | None) -> None:
    int4.configure(quantization_bit=absent)
    refused(int4, "weight is int8", "no quantization_bit", '"quantization_bit": 4')


@pytest.mark.parametrize("bits", [4, 8])
def test_float_weights_that_config_calls_packed(source: Checkpoint, bits: int) -> None:
    source.configure(quantization_bit=bits)
    refused(source, "weight is float16", f"quantization_bit {bits}")
    source.configure(quantization_bit=0)
    refused(source, "weight is float16", f"quantization_bit {bits}", quantization_bit=bits)


def test_one_float_weight_among_packed_ones(int4: Checkpoint) -> None:
    int4.tensors[DENSE] = torch.ones(64, 64).half()
    refused(int4, f"{DENSE} is float16", "quantization_bit 4")


@pytest.mark.parametrize(("packed", "told", "found"), [(INT4, True, "float16"), (INT4_QE, False, "int8")], ids=str)
def test_embeddings_otherwise_than_told(packed: Packed, told: bool, found: str, tmp_path: Path) -> None:
    checkpoint = packed_copy(tmp_path / "copy", packed.folder)
    checkpoint.configure(quantization_embeddings=told)
    refused(checkpoint, f"weight is {found}", f"quantization_embeddings {str(told).lower()}")


@pytest.mark.parametrize("bits", [3, 16, "4"])
def test_bits_that_cannot_be(int4: Checkpoint, bits: Any) -> None:
    int4.configure(quantization_bit=bits)
    with pytest.raises(StrictDataclassError, match="quantization_bit"):
        AutoModel.from_pretrained(int4.folder)


def test_a_packed_weight_of_another_size(int4: Checkpoint) -> None:
    """All of one width, so that only the sizes in config.json disagree."""
    int4.configure(inner_hidden_size=128)
    refused(int4, "mlp.dense", "config.json asks for")


def test_tensors_without_a_folder(source: Checkpoint) -> None:
    """No headers to look at beforehand: what was loaded tells."""
    config = ChatGLMConfig(**{**source.config, "quantization_bit": 8})
    with pytest.raises(CheckpointError, match=r"lacks transformer\.layers.*_scale"):
        ChatGLMForCausalLM.from_pretrained(None, config=config, state_dict=source.tensors)
    scales = {name.replace("weight", "weight_scale"): value for name, value in INT8.scales.items()}
    with pytest.raises(CheckpointError, match=r"is float16 .* int8 and one float16 or float32 scale per row"):
        ChatGLMForCausalLM.from_pretrained(None, config=config, state_dict=source.tensors | scales)


# ---- float checkpoints that cannot be packed


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("bits", [4, 8])
def test_values_without_a_scale(source: Checkpoint, value: float, bits: int) -> None:
    source.tensors[DENSE][3, 4] = value
    refused(source, DENSE, "NaN or infinite", quantization_config=GLMQuantizationConfig(bits))


def test_a_float_weight_of_another_size(source: Checkpoint) -> None:
    source.tensors[DENSE] = torch.ones(64, 62).half()
    words = (DENSE, "[64, 62]", "config.json asks for [64, 64]")
    refused(source, *words, quantization_config=GLMQuantizationConfig(4))


def test_odd_widths(source: Checkpoint) -> None:
    source.configure(inner_hidden_size=255)
    with pytest.raises(ValueError, match="inner_hidden_size 255 is odd: with quantization_bit 4"):
        AutoModel.from_pretrained(source.folder, quantization_config=GLMQuantizationConfig(4))
    source.configure(quantization_bit=4)
    with pytest.raises(StrictDataclassError, match="inner_hidden_size 255 is odd"):
        AutoModel.from_pretrained(source.folder)


def test_odd_widths_of_a_loaded_model() -> None:
    sizes = {"vocab_size": 20, "hidden_size": 8, "num_layers": 1, "num_attention_heads": 1, "inner_hidden_size": 7}
    model = AutoModel.from_config(ChatGLMConfig(**sizes))
    with pytest.raises(ValueError, match=r"^model\.layers\.0\.mlp\.dense_4h_to_h\.weight: 7 columns are odd"):
        model.quantize(4)
    assert model.quantize(8).config.quantization_bit == 8
