"""Float checkpoints that become packed models, by every entrance: golden integers, nothing else changed; and casts."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM

from glm_model import (
    ChatGLMConfig,
    ChatGLMForCausalLM,
    GLM130BConfig,
    GLM130BForCausalLM,
    GLMQuantizationConfig,
    load,
)
from glm_model.errors import CheckpointError, UnsupportedError
from glm_model.quantization.linear import QuantizedEmbedding, QuantizedLinear, QuantizedWeight
from glm_model.quantization.rules import is_packed
from tests.checkpoints import FILES
from tests.golden.data import assert_close, expected
from tests.golden.models import published_name
from tests.loading.conftest import Checkpoint
from tests.quantization.data import EMBEDDING, HEAD, INT4, INT4_QE, INT8, PACKED, Packed

SETS = pytest.mark.parametrize("packed", PACKED, ids=str)


def request(packed: Packed) -> dict[str, Any]:
    return {"quantization_config": GLMQuantizationConfig(packed.bits, packed.embeddings)}


# The dtype of the model has no say in the integers, only that of the file.
ENTRANCES: dict[str, Callable[[Checkpoint, Packed], Any]] = {
    "while loading": lambda source, packed: ChatGLMForCausalLM.from_pretrained(source.folder, **request(packed)),
    "in float32": lambda source, packed: AutoModel.from_pretrained(
        source.folder, dtype=torch.float32, **request(packed)
    ),
    "in bfloat16": lambda source, packed: AutoModelForCausalLM.from_pretrained(
        source.folder, dtype=torch.bfloat16, **request(packed)
    ),
    "on a device": lambda source, packed: AutoModel.from_pretrained(
        source.folder, device_map={"": "cpu"}, **request(packed)
    ),
    "from a dictionary": lambda source, packed: AutoModel.from_pretrained(
        source.folder,
        quantization_config={"quant_method": "glm", "bits": packed.bits, "embeddings": packed.embeddings},
    ),
    "from tensors": lambda source, packed: ChatGLMForCausalLM.from_pretrained(
        None, config=ChatGLMConfig(**source.config), state_dict=source.tensors, **request(packed)
    ),
    "afterwards": lambda source, packed: AutoModel.from_pretrained(source.folder).quantize(
        packed.bits, quantize_embeddings=packed.embeddings
    ),
}


def assert_golden_weights(model: nn.Module, packed: Packed) -> None:
    """Exactly the layers of the set are packed, as there."""
    layers = {
        published_name(f"{name}.weight"): module
        for name, module in model.named_modules()
        if isinstance(module, QuantizedWeight)
    }
    assert layers.keys() == packed.scales.keys()
    for name, module in layers.items():
        assert torch.equal(module.weight, packed.tensors[name]), name
        assert torch.equal(module.weight_scale, packed.scales[name]), name
        assert module.weight_scale.dtype == torch.float16


@SETS
@pytest.mark.parametrize("entrance", ENTRANCES)
def test_golden_weights_by_every_entrance(source: Checkpoint, packed: Packed, entrance: str) -> None:
    model = ENTRANCES[entrance](source, packed)
    assert_golden_weights(model, packed)
    for name, value in model.state_dict().items():
        published = published_name(name)
        if published.removesuffix("_scale") not in packed.scales:
            assert torch.equal(value.float(), source.tensors[published].to(value.dtype).float()), name
    assert (model.config.quantization_bit, model.config.quantization_embeddings) == (packed.bits, packed.embeddings)
    assert model.is_quantized
    assert model.hf_quantizer.quantization_config.bits == packed.bits
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen >= {name for name in model.state_dict() if name.endswith("_scale") and "lm_head" not in name}
    if packed.embeddings:
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert model.lm_head.weight_scale is model.model.embed_tokens.weight_scale


@SETS
@pytest.mark.parametrize(("file_format", "shards"), FILES)
def test_golden_weights_from_every_kind_of_file(
    source: Checkpoint, packed: Packed, file_format: str, shards: int
) -> None:
    source.write(file_format, shards)
    assert_golden_weights(ChatGLMForCausalLM.from_pretrained(source.folder, **request(packed)), packed)


def test_an_old_pickle(source: Checkpoint) -> None:
    """Before torch 1.6: cannot be mapped into memory."""
    source.write("bin")
    torch.save(source.tensors, source.folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert_golden_weights(ChatGLMForCausalLM.from_pretrained(source.folder, **request(INT4)), INT4)


@SETS
@torch.no_grad()
def test_logits_of_a_model_packed_while_it_loads(source: Checkpoint, packed: Packed) -> None:
    values = expected(packed.folder.name)
    for entrance in ("in float32", "afterwards"):
        model = ENTRANCES[entrance](source, packed).float().eval()
        assert_close(model(values["a.input_ids"]).logits, values["a.logits"])


@pytest.mark.parametrize("embeddings", [False, True])
def test_an_untied_head(source: Checkpoint, embeddings: bool) -> None:
    source.tensors[HEAD] = torch.randn(512, 64).half()
    source.configure(tie_word_embeddings=False)
    source.write()
    wanted = GLMQuantizationConfig(4, embeddings)
    for model in (
        ChatGLMForCausalLM.from_pretrained(source.folder, quantization_config=wanted),
        ChatGLMForCausalLM.from_pretrained(source.folder).quantize(4, quantize_embeddings=embeddings),
    ):
        head, embedding = model.lm_head, model.model.embed_tokens
        if embeddings:
            assert torch.equal(embedding.weight, INT4_QE.tensors[EMBEDDING])
            assert_close(head(torch.eye(64).half()).T, source.tensors[HEAD], 0.08)
            assert not torch.equal(head.weight, embedding.weight)
        else:
            assert torch.equal(head.weight, source.tensors[HEAD])


# ---- quantize()


def test_quantize_returns_the_model_and_does_it_once(source: Checkpoint) -> None:
    model = AutoModel.from_pretrained(source.folder)
    assert model.quantize(0) is model
    assert not model.config.quantization_bit
    assert model.quantize(4) is model
    assert model.quantize(4) is model
    assert_golden_weights(model, INT4)


def test_quantize_takes_the_arguments_of_the_published_one(source: Checkpoint) -> None:
    model = AutoModel.from_pretrained(source.folder).quantize(
        bits=4, use_quantization_cache=True, kernel_file="quantization_kernels.so", parallel_num=4
    )
    assert_golden_weights(model, INT4)
    with pytest.raises(TypeError, match="unexpected keyword argument 'bit'"):
        model.quantize(4, bit=4)


@pytest.mark.parametrize(("bits", "embeddings"), [(8, False), (4, True)])
def test_quantize_otherwise_than_it_is(bits: int, embeddings: bool) -> None:
    model = AutoModel.from_pretrained(INT4.folder)
    with pytest.raises(UnsupportedError, match=r"quantized already \(quantization_bit 4, .* False\)"):
        model.quantize(bits, quantize_embeddings=embeddings)


def test_quantize_with_other_bits(source: Checkpoint) -> None:
    with pytest.raises(ValueError, match="bits must be 4 or 8, not 2"):
        AutoModel.from_pretrained(source.folder).quantize(2)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_quantize_refuses_values_without_a_scale(source: Checkpoint, value: float) -> None:
    model = AutoModel.from_pretrained(source.folder)
    model.model.layers[2].mlp.dense_4h_to_h.weight.data[3, 5] = value
    with pytest.raises(ValueError, match=r"^model\.layers\.2\.mlp\.dense_4h_to_h\.weight holds values that are NaN"):
        model.quantize(8)
    assert not model.config.quantization_bit
    assert not any(isinstance(module, QuantizedWeight) for module in model.modules())


# ---- packed checkpoints


@SETS
@pytest.mark.parametrize("as_dictionary", [False, True])
def test_asking_for_what_a_checkpoint_is_already(
    packed: Packed, as_dictionary: bool, recwarn: pytest.WarningsRecorder
) -> None:
    wanted = GLMQuantizationConfig(packed.bits, packed.embeddings)
    quantization = wanted.to_dict() if as_dictionary else wanted
    model = ChatGLMForCausalLM.from_pretrained(packed.folder, quantization_config=quantization)
    assert_golden_weights(model, packed)
    assert model.hf_quantizer.pre_quantized
    assert not [warning for warning in recwarn if "quantization_config" in str(warning.message)]


@pytest.mark.parametrize(("packed", "bits", "embeddings"), [(INT4, 8, False), (INT8, 4, False), (INT4, 4, True)])
def test_asking_for_something_else(packed: Packed, bits: int, embeddings: bool) -> None:
    words = f"is INT{packed.bits} already .* and cannot become INT{bits}"
    with pytest.raises(CheckpointError, match=words):
        AutoModel.from_pretrained(packed.folder, quantization_config=GLMQuantizationConfig(bits, embeddings))


@pytest.mark.parametrize("bits", [0, 3, 16])
def test_a_request_that_cannot_be(bits: int) -> None:
    with pytest.raises(ValueError, match=f"bits must be 4 or 8, not {bits}"):
        GLMQuantizationConfig(bits)


# ---- load()


@pytest.mark.parametrize(("quantize", "bits"), [("int4", 4), ("int8", 8)])
def test_load(chat: Checkpoint, quantize: str, bits: int) -> None:
    model, tokenizer = load(chat.folder, quantize=quantize, device="cpu")
    layer = model.model.layers[1].mlp.dense_h_to_4h
    wanted = QuantizedLinear.from_float(linear(chat.tensors["transformer.layers.1.mlp.dense_h_to_4h.weight"]), bits)
    assert torch.equal(layer.weight, wanted.weight)
    assert model.dtype == model.lm_head.weight.dtype == torch.float32
    answer, history = model.chat(tokenizer, "你好", max_length=24, do_sample=False)
    assert history == [("你好", answer)]

    model.save_pretrained(chat.folder / "packed")
    tokenizer.save_pretrained(chat.folder / "packed")
    for again in (None, quantize):
        packed, _ = load(chat.folder / "packed", quantize=again, device="cpu")
        assert packed.chat(tokenizer, "你好", max_length=24, do_sample=False) == (answer, history)
    with pytest.raises(CheckpointError, match=f"is INT{bits} already"):
        load(chat.folder / "packed", quantize={"int4": "int8", "int8": "int4"}[quantize], device="cpu")


def linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight)
    return layer


# ---- models without a file


@pytest.mark.parametrize("embeddings", [False, True])
def test_a_packed_model_of_random_weights(embeddings: bool) -> None:
    sizes = {"vocab_size": 96, "hidden_size": 16, "num_layers": 2, "num_attention_heads": 2, "inner_hidden_size": 40}
    ids = {"bos_token_id": 94, "eos_token_id": 95, "mask_token_id": 90, "gmask_token_id": 91}
    config = ChatGLMConfig(**sizes, **ids, quantization_bit=4, quantization_embeddings=embeddings)
    torch.manual_seed(0)
    model = ChatGLMForCausalLM(config).eval()
    packed = {name for name, module in model.named_modules() if isinstance(module, QuantizedWeight)}
    assert packed == {name for name, _ in model.named_modules() if is_packed(name, embeddings)}
    assert len(packed) == 8 + 2 * embeddings
    assert isinstance(model.model.embed_tokens, QuantizedEmbedding if embeddings else nn.Embedding)
    logits = model(torch.tensor([[5, 6, 91, 94]])).logits
    assert bool(logits.isfinite().all())
    assert logits.std() > 0.01


def test_glm_130b(tmp_path: Any) -> None:
    """The same layers; the gated one is twice as tall."""
    sizes = {"vocab_size": 96, "hidden_size": 16, "num_layers": 2, "num_attention_heads": 2, "inner_hidden_size": 40}
    ids = {"bos_token_id": 94, "eos_token_id": 95, "mask_token_id": 90, "gmask_token_id": 91, "smask_token_id": 92}
    torch.manual_seed(0)
    model = GLM130BForCausalLM(GLM130BConfig(**sizes, **ids)).half().eval()
    model.save_pretrained(tmp_path / "float")
    wanted = copy.deepcopy(model).quantize(8)
    packed = GLM130BForCausalLM.from_pretrained(tmp_path / "float", quantization_config=GLMQuantizationConfig(8))
    packed.save_pretrained(tmp_path / "packed")
    again = GLM130BForCausalLM.from_pretrained(tmp_path / "packed")
    assert packed.model.layers[1].mlp.dense_h_to_4h.weight.shape == (80, 16)
    prompt = torch.tensor([[5, 6, 90, 7, 94]])
    with torch.no_grad():
        logits = [made.float()(prompt).logits for made in (wanted, packed, again)]
        assert_close(logits[0], model.float()(prompt).logits, 0.05)
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])


# ---- counts and casts


@SETS
def test_the_number_of_parameters_is_that_of_the_float_model(source: Checkpoint, packed: Packed) -> None:
    model = AutoModel.from_pretrained(source.folder)
    counts = [model.num_parameters(exclude_embeddings=exclude) for exclude in (False, True)]
    assert counts[0] - counts[1] == source.tensors[EMBEDDING].numel()
    model.quantize(packed.bits, packed.embeddings)
    assert [model.num_parameters(exclude_embeddings=exclude) for exclude in (False, True)] == counts
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert model.num_parameters(only_trainable=True) == trainable


@pytest.mark.parametrize("packed", [INT8, INT4_QE], ids=str)
def test_casts_as_published_code_does_them(packed: Packed) -> None:
    """`.half()` for a GPU, `.float()` for a CPU: both on a model that transformers calls quantized."""
    model = AutoModel.from_pretrained(packed.folder)
    ids = torch.tensor([[5, 6, 501, 504]])
    for cast, dtype in (("half", torch.float16), ("float", torch.float32), ("bfloat16", torch.bfloat16)):
        assert getattr(model, cast)() is model
        assert model.dtype == dtype
        with torch.no_grad():
            assert model(ids).logits.dtype == dtype
        assert_golden_weights(model, packed)
    assert model.to(torch.float32).dtype == torch.float32


def test_a_packed_embedding_loads_in_the_dtype_asked_for() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        model = AutoModel.from_pretrained(INT4_QE.folder, dtype=dtype)
        assert model.dtype == model.model.embed_tokens(torch.tensor([3])).dtype == dtype
