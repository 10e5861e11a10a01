"""What `load` is told about packed weights and the cache reaches the layers."""

from typing import Any

import pytest
import torch

from glm_model import load
from glm_model.loading import kernel_in_use
from glm_model.quantization.linear import QuantizedEmbedding, QuantizedLinear
from tests.loading.conftest import Checkpoint


def precisions(model: Any) -> set[str]:
    return {module.precision for module in model.modules() if isinstance(module, QuantizedLinear)}


def answer(model: Any, tokenizer: Any) -> str:
    return str(model.chat(tokenizer, "你好", max_length=30, do_sample=False)[0])


def test_precision(checkpoint: Checkpoint) -> None:
    model, _ = load(checkpoint.folder, quantize="int8", device="cpu")
    assert precisions(model) == {"exact"}
    model, tokenizer = load(checkpoint.folder, quantize="int8", precision="fast", device="cpu")
    assert precisions(model) == {"fast"}
    assert isinstance(answer(model, tokenizer), str)


def test_the_head_of_a_float_checkpoint(checkpoint: Checkpoint) -> None:
    model, tokenizer = load(checkpoint.folder, quantize="int4", quantize_head=True, device="cpu")
    assert isinstance(model.model.embed_tokens, QuantizedEmbedding)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.quantization_embeddings is True
    assert isinstance(answer(model, tokenizer), str)


@pytest.mark.parametrize("again", [None, "int8"])
def test_the_head_of_a_packed_checkpoint(checkpoint: Checkpoint, again: str | None) -> None:
    """chatglm-6b-int8 with --quantize-head is what the float checkpoint packed at once is."""
    packed, tokenizer = load(checkpoint.folder, quantize="int8", device="cpu")
    wanted, _ = load(checkpoint.folder, quantize="int8", quantize_head=True, device="cpu")
    packed.save_pretrained(checkpoint.folder)
    model, _ = load(checkpoint.folder, quantize=again, quantize_head=True, device="cpu")
    assert model.config.quantization_embeddings is True
    assert isinstance(model.lm_head, QuantizedLinear)
    ids = torch.tensor([tokenizer("你好")["input_ids"]])
    with torch.no_grad():
        found, expected = model(ids).logits, wanted(ids).logits
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()  # its scales come from another dtype


def test_a_head_alone_is_not_packed(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before the weights, which take minutes, are read."""
    monkeypatch.delattr("glm_model.loading.AutoModelForCausalLM.from_pretrained")
    with pytest.raises(ValueError, match="quantize_head goes with quantize"):
        load(checkpoint.folder, quantize_head=True, device="cpu")


def test_cache_dtype(checkpoint: Checkpoint) -> None:
    model, tokenizer = load(checkpoint.folder, cache_dtype="bfloat16", device="cpu")
    inputs = tokenizer(["你好"], return_tensors="pt")
    out = model.generate(inputs["input_ids"], max_new_tokens=2, return_dict_in_generate=True)
    assert out.past_key_values.layers[0].keys.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "best"}, "precision must be one of exact, fast; not 'best'"),
        ({"cache_dtype": "int8"}, "cache_dtype must be one of auto, float32"),
    ],
)
def test_values_that_are_none(checkpoint: Checkpoint, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load(checkpoint.folder, **options)


def test_the_line_on_the_kernel(checkpoint: Checkpoint) -> None:
    assert kernel_in_use(load(checkpoint.folder, device="cpu")[0]) is None
    line = kernel_in_use(load(checkpoint.folder, quantize="int8", precision="fast", device="cpu")[0])
    assert line
    assert "\n" not in line
