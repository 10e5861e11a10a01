"""Predictions beside what is allocated when the same model is really loaded and run, on a CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache

from benchmarks.plan import peak_of, prompt, step
from glm_model import GLMQuantizationConfig, load
from glm_model.kernels import dispatch
from glm_model.plan.estimate import Plan, Workload, make_plan
from glm_model.plan.forward import by_reference
from glm_model.plan.gpus import GPU
from glm_model.plan.models import find_config
from glm_model.plan.placement import Split
from tests.checkpoints import write_checkpoint
from tests.plan.shapes import ARCHITECTURES, small

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
PACKINGS = [(0, False), (8, False), (4, False), (4, True)]
TOLERANCE = 0.03
CPU = torch.device("cpu")


def planned(workload: Workload) -> Plan:
    return make_plan(workload, (GPU(1 << 40),), Split(), by_reference)


def workload(architecture: str, packing: tuple[int, bool], dtype: str, **shape: Any) -> Workload:
    bits, embeddings = packing
    config = small(architecture, quantization_bit=bits, quantization_embeddings=embeddings)
    return Workload(config, DTYPES[dtype], **shape)


def tensor_bytes(model: Any) -> int:
    """Of all memory that its parameters and buffers lie in, each counted once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in model.parameters()}
    storages |= {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in model.buffers()}
    return sum(storage.nbytes() for storage in storages.values())


def cached_bytes(cache: Any) -> int:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


@pytest.mark.parametrize(
    ("dtype", "packing"),
    [("float32", (0, False)), *(("float16", packing) for packing in PACKINGS), ("bfloat16", (4, True))],
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_of_a_model_that_is_packed_while_it_loads(
    architecture: str, dtype: str, packing: tuple[int, bool], tmp_path: Path
) -> None:
    bits, embeddings = packing
    AutoModelForCausalLM.from_config(small(architecture), dtype=torch.float16).save_pretrained(tmp_path)
    asked = {"quantization_config": GLMQuantizationConfig(bits, embeddings)} if bits else {}
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=DTYPES[dtype], **asked)
    rounded = model.to(DTYPES[dtype]) if not bits else model
    for module in rounded.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.to(DTYPES[dtype])  # as glm_model.load does
    (device,) = planned(workload(architecture, packing, dtype)).devices
    assert device.weights == tensor_bytes(rounded)


@pytest.mark.parametrize(("quantize", "dtype"), [(None, "float16"), ("int4", "float16"), ("int8", "float32")])
@pytest.mark.parametrize("prefix", [{}, {"pre_seq_len": 7}, {"pre_seq_len": 7, "prefix_projection": True}])
def test_weights_and_cache_of_what_load_gives(
    quantize: str | None, dtype: str, prefix: dict[str, Any], tmp_path: Path
) -> None:
    write_checkpoint(tmp_path, hidden=64, heads=4, **prefix)
    model, _ = load(tmp_path, quantize=quantize, dtype=dtype, device="cpu")
    config = model.config if quantize else find_config(str(tmp_path))
    workload = Workload(config, DTYPES[dtype], context=40, batch=2)
    (device,) = planned(workload).devices
    assert device.weights == tensor_bytes(model)
    with torch.no_grad():
        _, cache = step(model, prompt(workload, CPU), None)
    with torch.no_grad():
        held = cached_bytes(cache) + (model.model.prefix_encoder(DTYPES[dtype], 2).nbytes if prefix else 0)
    assert device.cache == held


@pytest.mark.parametrize(("dtype", "bits"), [("float32", 0), ("float16", 8), ("float16", 4), ("bfloat16", 4)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_cache_after_an_answer(architecture: str, dtype: str, bits: int) -> None:
    """The last token of an answer is never looked up, so the cache ends one before it."""
    asked = workload(architecture, (bits, False), dtype, context=33, batch=2)
    model = AutoModelForCausalLM.from_config(asked.config, dtype=asked.dtype).eval()
    model.generation_config.eos_token_id = None
    start = prompt(asked, CPU)[:, -30:]
    cache = DynamicCache()  # as on a GPU; a CPU has another one
    answer = model.generate(start, max_length=34, do_sample=False, past_key_values=cache)
    assert answer.shape == (2, 34)
    assert planned(asked).devices[0].cache == cached_bytes(cache)


# In half a CPU takes the original's single steps, which a GPU does not; bfloat16 is as wide and takes the fused ones.
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_activations_of_a_prompt(
    architecture: str, packing: tuple[int, bool], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_KERNELS", [dispatch.REFERENCE])
    asked = workload(architecture, packing, dtype, context=300, batch=2)
    model = AutoModelForCausalLM.from_config(asked.config, dtype=asked.dtype).eval()
    ids = prompt(asked, CPU)
    # oneDNN has scratch memory of its own in bfloat16; what the library of a GPU has is among the assumptions.
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
        step(model, ids[:, -8:], None)
        (_, cache), peak = peak_of(lambda: step(model, ids, None), CPU)
    (device,) = planned(asked).devices
    assert peak - cached_bytes(cache) == pytest.approx(device.activations, rel=TOLERANCE)


@pytest.mark.parametrize(("context", "batch"), [(1, 1), (64, 3), (500, 1)])
def test_activations_grow_as_measured(context: int, batch: int) -> None:
    asked = workload("glm130b", (0, False), "float32", context=context, batch=batch)
    if context == 1:  # no prompt is so short
        assert planned(asked).devices[0].activations > 0
        return
    model = AutoModelForCausalLM.from_config(asked.config, dtype=asked.dtype).eval()
    with torch.no_grad():
        (_, cache), peak = peak_of(lambda: step(model, prompt(asked, CPU), None), CPU)
    assert peak - cached_bytes(cache) == pytest.approx(planned(asked).devices[0].activations, rel=TOLERANCE)


def test_weights_that_need_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel joins blocks of a million weights; here there are three in one layer."""
    monkeypatch.setattr(dispatch, "_KERNELS", [dispatch.REFERENCE])
    config = small("glm130b", hidden_size=768, inner_hidden_size=2048, num_layers=2, quantization_bit=4)
    asked = Workload(config, torch.float32, context=128)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        (_, cache), peak = peak_of(lambda: step(model, prompt(asked, CPU), None), CPU)
    assert peak - cached_bytes(cache) == pytest.approx(planned(asked).devices[0].activations, rel=TOLERANCE)
