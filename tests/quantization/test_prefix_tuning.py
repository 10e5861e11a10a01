"""P-Tuning over a packed base: the published fine-tuning script trains a prefix through INT4 weights."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.trainer_utils import validate_quantization_for_training

from glm_model import ChatGLMConfig, ChatGLMForCausalLM
from glm_model.checkpoint.prefix import load_prefix
from glm_model.kernels.packing import dequantize
from glm_model.quantization.linear import QuantizedLinear, QuantizedWeight
from tests.golden.data import FP32, GOLDEN, TUNED, assert_close, expected
from tests.quantization.data import INT4, INT4_QE, INT8, Packed


def base_with_prefix(bits: int, folder: str) -> ChatGLMForCausalLM:
    model = ChatGLMForCausalLM.from_pretrained(GOLDEN / FP32).quantize(bits)
    load_prefix(model, GOLDEN / folder)
    return model.eval()


def unpacked(model: nn.Module) -> nn.Module:
    """The same model with float layers in the place of packed ones."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantizedLinear):
            layer = nn.Linear(module.in_features, module.out_features)
            weight = dequantize(module.weight, module.weight_scale, module.bits, torch.float32)
            layer.weight = nn.Parameter(weight, requires_grad=False)
            layer.register_parameter("bias", module.bias)
            model.set_submodule(name, layer)
    return model


def gradients(model: Any, values: dict[str, Tensor]) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    model(values["loss.input_ids"], labels=values["loss.labels"]).loss.backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("folder", TUNED)
def test_gradients_of_the_prefix(folder: str, bits: int) -> None:
    model = base_with_prefix(bits, folder)
    found = gradients(model, expected(folder))
    assert found.keys() == {name for name, _ in model.named_parameters() if "prefix_encoder." in name}
    for name, value in gradients(unpacked(model), expected(folder)).items():
        assert_close(found[name], value)


@pytest.mark.parametrize("packed", [INT8, INT4, INT4_QE], ids=str)
def test_a_step_changes_the_prefix_alone(packed: Packed) -> None:
    """The published script's setting: the base in half, the prefix in float32."""
    torch.manual_seed(0)
    config = ChatGLMConfig.from_pretrained(packed.folder, pre_seq_len=4)
    model = ChatGLMForCausalLM.from_pretrained(packed.folder, config=config).half()
    model.model.prefix_encoder.float()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=1.0)
    values = expected(TUNED[0])
    loss = model.train()(values["loss.input_ids"], labels=values["loss.labels"]).loss
    loss.backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"model.prefix_encoder.embedding.weight"}


def test_trainer_may_train_a_prefix_and_nothing_else() -> None:
    config = ChatGLMConfig.from_pretrained(INT4.folder, pre_seq_len=4)
    validate_quantization_for_training(ChatGLMForCausalLM.from_pretrained(INT4.folder, config=config))
    with pytest.raises(ValueError, match="purely quantized models"):
        validate_quantization_for_training(ChatGLMForCausalLM.from_pretrained(INT4.folder))


def test_a_prefix_loaded_later_may_train_too() -> None:
    model = base_with_prefix(4, TUNED[0])
    validate_quantization_for_training(model)


def test_the_projection_of_a_prefix_is_not_packed() -> None:
    model = base_with_prefix(4, TUNED[1])
    assert model.model.prefix_encoder is not None
    assert isinstance(model.model.prefix_encoder.trans[0], nn.Linear)
    config = ChatGLMConfig.from_pretrained(INT4.folder, pre_seq_len=4, prefix_projection=True)
    model = ChatGLMForCausalLM.from_pretrained(INT4.folder, config=config)
    assert not any(isinstance(module, QuantizedWeight) for module in model.model.prefix_encoder.modules())
