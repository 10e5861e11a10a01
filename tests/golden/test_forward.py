"""One pass of the model against the original: logits, everything inside, loss and gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tests.golden.data import FP16, FP32, assert_close
from tests.golden.models import ALL_SETS, PLAIN_SETS, TUNED_SETS, DataSet, load, published_name

FLOAT_SETS = [*PLAIN_SETS, *TUNED_SETS]
AS_IS = DataSet(FP32, "expected")


@pytest.mark.parametrize("data", ALL_SETS, ids=str)
@pytest.mark.parametrize("case", ["a", "b", "ab"])
@torch.no_grad()
def test_logits_from_ids_alone(data: DataSet, case: str) -> None:
    logits = data.model()(data.values[f"{case}.input_ids"]).logits
    assert_close(logits, data.values[f"{case}.logits"], data.bound)


@pytest.mark.parametrize("data", ALL_SETS, ids=str)
@pytest.mark.parametrize("case", ["a", "b", "ab", "c"])
@torch.no_grad()
def test_logits_from_given_masks_and_positions(data: DataSet, case: str) -> None:
    """`c` is left padded; what the original computes for rows of padding counts too."""
    values = data.values
    names = ("input_ids", "attention_mask", "position_ids")
    logits = data.model()(**{name: values[f"{case}.{name}"] for name in names}).logits
    assert_close(logits, values[f"{case}.logits"], data.bound)


@pytest.mark.parametrize("data", ALL_SETS, ids=str)
@torch.no_grad()
def test_positions_of_the_tokenizer_win_over_those_of_the_model(data: DataSet) -> None:
    """With both masks in a text the tokenizer's padding takes [MASK] for the blank, the model [gMASK]."""
    values = data.values
    mask, positions = values["ab.tok_attention_mask"], values["ab.tok_position_ids"]
    logits = data.model()(values["ab.input_ids"], attention_mask=mask, position_ids=positions).logits
    assert_close(logits, values["ab.logits_tok_positions"], data.bound)
    assert not torch.equal(values["ab.logits"], values["ab.logits_tok_positions"])


@pytest.mark.parametrize("data", FLOAT_SETS, ids=str)
@torch.no_grad()
def test_left_padded_rows_from_ids_alone(data: DataSet) -> None:
    """Real tokens of a padded row get the logits of the given masks; derived rows of padding mean nothing."""
    values = data.values
    ids = values["c.input_ids"]
    real = ids != data.model().config.pad_token_id
    for mask in (None, real.long()):
        logits = data.model()(ids, attention_mask=mask).logits
        assert_close(logits[real], values["c.logits"][real], data.bound)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_hidden_states(attention: str) -> None:
    values = AS_IS.values
    output = AS_IS.model(attn_implementation=attention)(values["a.input_ids"], output_hidden_states=True)
    assert len(output.hidden_states) == 4
    for index, states in enumerate(output.hidden_states):
        assert_close(states.transpose(0, 1), values[f"a.hidden_states.{index}"])


def record(seen: dict[str, Tensor], name: str) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, arguments: Any, output: Any) -> None:
        seen[name] = output[0] if isinstance(output, tuple) else output

    return hook


@torch.no_grad()
def test_inside_the_layers() -> None:
    model, values = AS_IS.model(attn_implementation="eager"), AS_IS.values
    seen: dict[str, Tensor] = {}
    layers: Any = model.model.layers
    first = layers[0]
    modules = {f"layer_output.{index}": layer for index, layer in enumerate(layers)}
    modules |= {"layer0.input_layernorm": first.input_layernorm, "layer0.attention": first.self_attn}
    modules |= {"layer0.post_attention_layernorm": first.post_attention_layernorm, "layer0.mlp": first.mlp}
    hooks = [module.register_forward_hook(record(seen, name)) for name, module in modules.items()]
    try:
        output = model(values["a.input_ids"], output_attentions=True)
    finally:
        for hook in hooks:
            hook.remove()
    for name in modules:
        assert_close(seen[name].transpose(0, 1), values[f"a.{name}"])
    assert_close(output.attentions[0][0], values["a.layer0.attention_probs"])


@torch.no_grad()
def test_query_key_value_and_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """What reaches the attention function: rotated, not yet scaled."""
    model, values = AS_IS.model(), AS_IS.values
    seen: dict[str, Tensor] = {}
    attend = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def spy(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        context, probabilities = attend(module, query, key, value, *args, **kwargs)
        if module.layer_idx == 0:
            seen.update(query=query, key=key, value=value, context=context.transpose(1, 2))
        return context, probabilities

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", spy)
    model(values["a.input_ids"])
    for name in ("query", "key", "value", "context"):
        wanted = values[f"a.layer0.{name}"]
        assert_close(seen[name].permute(2, 0, 1, 3).reshape(wanted.shape), wanted)


@pytest.mark.parametrize(("folder", "dtype"), [(FP32, torch.float32), (FP16, torch.float16)])
def test_rotary_tables(folder: str, dtype: torch.dtype) -> None:
    """In half the angle itself is rounded, by up to 0.5 rad: an oddity that the weights were trained with."""
    values = DataSet(folder, "expected").values
    rotary = load(folder, dtype).model.rotary_emb
    assert torch.equal(rotary.inv_freq, values["rotary.inv_freq"].float())
    for positions, suffix in ((range(64), "64"), (range(2000, 2048), "_2000_2047")):
        both_rows = torch.tensor(positions).expand(1, 2, -1)
        for table, name in zip(rotary(both_rows, dtype), ("cos", "sin"), strict=True):
            wanted = values[f"rotary.{name}{suffix}"].expand(-1, 2, -1)
            assert table.dtype == wanted.dtype
            assert_close(table.reshape(wanted.shape), wanted, 1e-6)


@pytest.mark.parametrize("data", [data for data in ALL_SETS if "loss.loss" in data.values], ids=str)
@torch.no_grad()
def test_loss(data: DataSet) -> None:
    """Of the batch and of each row alone. The original rounds it to the working dtype at the end."""
    values, model = data.values, data.model()
    ids, labels = values["loss.input_ids"], values["loss.labels"]
    assert_close(model(ids).logits, values["loss.logits"], data.bound)
    for name, rows in {"loss": slice(0, 2), "loss_0": slice(0, 1), "loss_1": slice(1, 2)}.items():
        loss = model(ids[rows], labels=labels[rows]).loss
        assert loss.dtype == data.dtype
        assert_close(loss[None], values[f"loss.{name}"], data.bound)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_gradients(attention: str) -> None:
    assert_gradients(AS_IS, gradients(AS_IS.model(attn_implementation=attention), AS_IS))


def test_gradient_checkpointing_changes_nothing() -> None:
    model = AS_IS.model()
    model.gradient_checkpointing_enable()  # the name that transformers 5.17 knows too
    model.train()  # checkpointing is for training; there is no dropout without a prefix
    try:
        found = gradients(model, AS_IS)
    finally:
        model.gradient_checkpointing_disable()
        model.eval()
    assert_gradients(AS_IS, found)


@pytest.mark.parametrize("data", [data for data in TUNED_SETS if data.stem == "expected"], ids=str)
def test_gradients_of_a_prefix(data: DataSet) -> None:
    """P-tuning trains the prefix alone."""
    assert_gradients(data, gradients(data.model(), data))


def gradients(model: nn.Module, data: DataSet) -> dict[str, Tensor]:
    """Gradient of the batch loss for every parameter that has one, by its published name."""
    model.zero_grad(set_to_none=True)
    model(data.values["loss.input_ids"], labels=data.values["loss.labels"]).loss.backward()
    parameters = {published_name(name): value for name, value in model.named_parameters()}
    found = {name: value.grad for name, value in parameters.items() if value.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def assert_gradients(data: DataSet, found: dict[str, Tensor]) -> None:
    wanted = {name: value for name, value in data.values.items() if name.startswith("grad.")}
    assert {f"grad.{name}" for name in found} == wanted.keys()
    for name, value in found.items():
        assert_close(value, wanted[f"grad.{name}"])
