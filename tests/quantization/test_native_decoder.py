"""A decoding step in one call gives what the modules give, and leaves it to them where somebody would notice."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from glm_model import ChatGLMConfig, ChatGLMForCausalLM, GLM130BConfig, GLM130BForCausalLM
from glm_model.kernels import native
from glm_model.kernels.dispatch import Precision
from glm_model.model import native_step
from glm_model.model.kv_cache import GrowingCache
from glm_model.quantization.linear import QuantizedLinear
from tests.golden.data import assert_close

if not native.is_usable():
    pytest.skip("no native kernel here", allow_module_level=True)

SIZES = {"vocab_size": 60, "num_layers": 3, "max_sequence_length": 64}
SPECIAL = {"bos_token_id": 50, "eos_token_id": 51, "pad_token_id": 3, "mask_token_id": 52, "gmask_token_id": 53}
PROMPTS = [[3, 3, 11, 12, 53, 50], [14, 15, 16, 17, 53, 50], [3, 20, 21, 22, 53, 50]]
STEPS = 5

# Widths that fill vectors and some that do not; both architectures.
MODELS: dict[str, Callable[[], Any]] = {
    "chatglm": lambda: ChatGLMForCausalLM(
        ChatGLMConfig(**SIZES, **SPECIAL, hidden_size=96, num_attention_heads=2, inner_hidden_size=150)
    ),
    "chatglm, wide": lambda: ChatGLMForCausalLM(
        ChatGLMConfig(**SIZES, **SPECIAL, hidden_size=256, num_attention_heads=2, inner_hidden_size=1200)
    ),
    "glm130b": lambda: GLM130BForCausalLM(
        GLM130BConfig(
            **{**SIZES, **SPECIAL, "smask_token_id": 54, "eop_token_id": 51},
            hidden_size=80,
            num_attention_heads=4,
            inner_hidden_size=90,
        )
    ),
}


def made(kind: str = "chatglm", bits: int = 4, precision: Precision = "exact") -> Any:
    """A packed model whose every weight matters: biases and norms are drawn too."""
    torch.manual_seed(bits)
    model = MODELS[kind]().eval()
    for name, parameter in model.named_parameters():
        spread = 0.3 if name.endswith("bias") or "norm" in name else 0.08
        nn.init.normal_(parameter, mean=float("norm.weight" in name or "layernorm.weight" in name), std=spread)
    model.quantize(bits)
    for module in model.modules():
        if isinstance(module, QuantizedLinear):
            module.precision = precision
    return model


def logits(model: Any, prompts: list[list[int]], cache: Any = None) -> Tensor:
    """Of a few tokens after each prompt, each in a step of its own, [batch, steps, vocab]."""
    ids, steps = torch.tensor(prompts), []
    cache = GrowingCache() if cache is None else cache
    with torch.no_grad():
        for step in range(STEPS):
            inputs = model.prepare_inputs_for_generation(
                ids,
                next_sequence_length=1 if step else None,
                past_key_values=cache,
                attention_mask=(ids != SPECIAL["pad_token_id"]).long(),
                use_cache=True,
            )
            steps.append(model(**inputs).logits[:, -1:])
            ids = torch.cat([ids, torch.full((len(ids), 1), 30 + step)], dim=1)
    return torch.cat(steps, dim=1)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Grows by one with each native step."""
    taken: list[Any] = []
    step = native_step._NativeDecoder.step

    def counted(*arguments: Any) -> Tensor:
        taken.append(arguments)
        return step(*arguments)

    monkeypatch.setattr(native_step._NativeDecoder, "step", counted)
    return taken


def by_modules(model: Any, *arguments: Any) -> Tensor:
    """The same from the modules: a hook that does nothing makes them all be called."""
    handle = model.model.layers[0].register_forward_hook(lambda *_: None)
    try:
        return logits(model, *arguments)
    finally:
        handle.remove()


@pytest.mark.parametrize("prompts", [PROMPTS[1:2], PROMPTS], ids=["one", "padded"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", MODELS)
def test_the_modules_give_the_same(kind: str, bits: int, prompts: list[list[int]], steps: list[Any]) -> None:
    model = made(kind, bits)
    found = logits(model, prompts)
    assert len(steps) == STEPS - 1
    assert_close(found, by_modules(model, prompts))
    assert len(steps) == STEPS - 1


@pytest.mark.parametrize("kind", MODELS)
def test_in_fast_precision(kind: str, steps: list[Any]) -> None:
    """Where sums differ in the last bit, an activation may be rounded the other way."""
    model = made(kind, precision="fast")
    assert_close(logits(model, PROMPTS), by_modules(model, PROMPTS), 0.02)
    assert not torch.equal(logits(model, PROMPTS), logits(made(kind), PROMPTS))
    assert steps


def test_a_norm_whose_weight_is_computed_is_left_to_it(steps: list[Any]) -> None:
    model = made()
    norm = model.model.layers[0].input_layernorm
    nn.utils.parametrize.register_parametrization(norm, "weight", nn.Tanh())
    assert_close(logits(model, PROMPTS), by_modules(model, PROMPTS))
    assert not steps


def test_a_row_that_sees_nothing(steps: list[Any]) -> None:
    model, cache = made(), GrowingCache()
    prompts = torch.tensor(PROMPTS[1:2] * 2)
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1] = 0
    token, positions = torch.tensor([[5], [5]]), torch.ones(2, 2, 1, dtype=torch.long)
    with torch.no_grad():
        model(prompts, past_key_values=cache, use_cache=True)
        both = copy.deepcopy(cache)
        inputs = {"input_ids": token, "attention_mask": mask, "position_ids": positions, "use_cache": True}
        found = model(**inputs, past_key_values=cache).logits
        assert len(steps) == 1
        model.model.layers[0].register_forward_hook(lambda *_: None)
        assert_close(found, model(**inputs, past_key_values=both).logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_cache_in_half(dtype: torch.dtype, steps: list[Any]) -> None:
    model = made()
    found = logits(model, PROMPTS, GrowingCache(dtype))
    assert len(steps) == STEPS - 1
    assert_close(found, by_modules(model, PROMPTS, GrowingCache(dtype)), 1e-4)


def test_threads_change_nothing(steps: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them than there are cores, too: whoever comes late finds nothing left to do."""
    model = made("chatglm, wide", precision="fast")
    results = []
    for threads in (1, 2, 9):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append(logits(model, PROMPTS))
    assert steps
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_beams(steps: list[Any]) -> None:
    """They change the order of what is cached."""
    model = made()
    settings = {"max_new_tokens": 8, "num_beams": 3, "use_cache": True, "return_dict_in_generate": True}
    found = model.generate(torch.tensor(PROMPTS), output_scores=True, **settings)
    assert steps
    model.model.layers[0].register_forward_hook(lambda *_: None)
    wanted = model.generate(torch.tensor(PROMPTS), output_scores=True, **settings)
    assert torch.equal(found.sequences, wanted.sequences)
    assert_close(found.sequences_scores, wanted.sequences_scores)


def replace_weight(model: Any) -> None:
    layer = model.model.layers[1].mlp.dense_h_to_4h
    layer.weight = nn.Parameter(layer.weight.flip(0), requires_grad=False)


def replace_layer(model: Any) -> None:
    layer = copy.deepcopy(model.model.layers[2])
    layer.self_attn.layer_idx = layer.self_attn.cache_idx = 1
    model.model.layers[1] = layer


def replace_module(model: Any) -> None:
    model.model.layers[1].self_attn.dense = copy.deepcopy(model.model.layers[2].self_attn.dense)


def write_into_weight(model: Any) -> None:
    model.model.layers[0].input_layernorm.weight.data.mul_(2)


def move_weight(model: Any) -> None:
    norm = model.model.layers[0].input_layernorm.weight
    norm.data = norm.data * 2


def be_fast(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, QuantizedLinear):
            module.precision = "fast"


@pytest.mark.parametrize(
    "change", [replace_weight, replace_layer, replace_module, write_into_weight, move_weight, be_fast]
)
def test_changes_are_noticed(change: Callable[[Any], None], steps: list[Any]) -> None:
    model = made()
    before = logits(model, PROMPTS)
    change(model)
    after, taken = logits(model, PROMPTS), len(steps)
    assert taken == 2 * (STEPS - 1)
    assert_close(after, by_modules(model, PROMPTS), 0.02 if change is be_fast else 1e-5)
    assert not torch.allclose(after, before, rtol=1e-4)


def test_hidden_states_take_native_steps_away_while_they_are_asked_for(steps: list[Any]) -> None:
    model = made()
    settings = {"max_new_tokens": 4, "use_cache": True, "return_dict_in_generate": True, "do_sample": False}
    asked = model.generate(torch.tensor(PROMPTS), output_hidden_states=True, **settings)
    assert [len(states) for states in asked.hidden_states] == [len(model.model.layers) + 1] * 4
    assert not steps
    assert torch.equal(model.generate(torch.tensor(PROMPTS), **settings).sequences, asked.sequences)
    assert len(steps) == 3


def a_hook(model: Any) -> None:
    model.model.layers[1].mlp.register_forward_pre_hook(lambda *_: None)


def another_forward(model: Any) -> None:
    """As accelerate does."""
    module = model.model.layers[1].self_attn
    module.forward = module.forward


def a_float_layer(model: Any) -> None:
    model.model.layers[1].mlp.dense_h_to_4h = nn.Linear(96, 150)


def two_precisions(model: Any) -> None:
    model.model.layers[1].mlp.dense_h_to_4h.precision = "fast"


def eager(model: Any) -> None:
    model.set_attn_implementation("eager")


def bfloat16(model: Any) -> None:
    model.bfloat16()


@pytest.mark.parametrize("change", [a_hook, another_forward, a_float_layer, two_precisions, eager, bfloat16])
def test_it_is_left_to_the_modules(change: Callable[[Any], None], steps: list[Any]) -> None:
    model = made()
    logits(model, PROMPTS)
    taken = len(steps)
    change(model)
    assert logits(model, PROMPTS).isfinite().all()
    assert len(steps) == taken


def test_hidden_states_can_be_had(steps: list[Any]) -> None:
    model = made()
    cache = GrowingCache()
    logits(model, PROMPTS, cache)
    taken = len(steps)
    positions = torch.zeros(3, 2, 1, dtype=torch.long)
    with torch.no_grad():
        out = model(torch.tensor([[5]] * 3), position_ids=positions, past_key_values=cache, output_hidden_states=True)
    assert len(out.hidden_states) == SIZES["num_layers"] + 1
    assert len(steps) == taken


def test_gradients_can_be_had(steps: list[Any]) -> None:
    model = made()
    cache = GrowingCache()
    logits(model, PROMPTS, cache)
    taken = len(steps)
    states = torch.randn(3, 1, 96, requires_grad=True)
    positions = torch.zeros(3, 2, 1, dtype=torch.long)
    mask = torch.zeros(3, 1, 1, cache.get_seq_length() + 1)
    out = model(inputs_embeds=states, position_ids=positions, past_key_values=cache, attention_mask=mask)
    out.logits.sum().backward()
    assert states.grad is not None
    assert len(steps) == taken


def test_a_cache_of_another_batch(steps: list[Any]) -> None:
    """Is torch's error, not a write into foreign memory."""
    model = made()
    cache = GrowingCache()
    logits(model, PROMPTS, cache)
    taken = len(steps)
    with pytest.raises(RuntimeError, match="size"), torch.no_grad():
        model(torch.tensor([[5]] * 2), position_ids=torch.zeros(2, 2, 1, dtype=torch.long), past_key_values=cache)
    assert len(steps) == taken


def test_models_are_not_kept_alive() -> None:
    model = made()
    logits(model, PROMPTS)
    other = copy.deepcopy(model)
    assert torch.equal(logits(other, PROMPTS), logits(model, PROMPTS))
    known = len(native_step._decoders)
    del model, other
    assert len(native_step._decoders) == known - 2
