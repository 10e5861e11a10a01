"""GLM-130B against SwissArmyTransformer: one rank, float32, and the float16 run of the original as it is.

Tensor-parallel and quantized shards, beams and the filling of blanks have tests of their own.
"""

import json
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from glm_model import GLM130BConfig, GLM130BForCausalLM
from tests.golden.data import GLM130B, GOLDEN, assert_close, expected
from tests.golden.models import answering, published_name

CASES = ["g", "m", "s"]
LIMIT = 40  # tokens of prompt and answer
# In half the original's bits, but for passes of another shape than its own (without a cache, or with a static one).
RUNS = [
    pytest.param("expected", torch.float32, 1e-5, id="float32"),
    pytest.param("expected_fp16", torch.float16, 1e-3, id="float16"),
]
SIZES = (
    "num_layers",
    "hidden_size",
    "num_attention_heads",
    "vocab_size",
    "inner_hidden_size",
    "max_sequence_length",
)


@cache
def load(dtype: torch.dtype = torch.float32, **options: Any) -> GLM130BForCausalLM:
    """The tensors under our names; reading the archive itself is the converter's business."""
    sizes = json.loads((GOLDEN / GLM130B / "model_config.json").read_text())
    config = GLM130BConfig(
        **{name: sizes[name] for name in SIZES},
        mask_token_id=500,
        gmask_token_id=501,
        smask_token_id=502,
        bos_token_id=504,
        eos_token_id=[505, 2],
        pad_token_id=0,
        **options,
    )
    model = GLM130BForCausalLM(config)
    archive = torch.load(GOLDEN / GLM130B / "tp1/49300/mp_rank_00_model_states.pt", weights_only=True)["module"]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(archive[published_name(name)])
    return model.to(dtype).eval()


def prompt(values: dict[str, Tensor], case: str) -> Tensor:
    tokens = values[f"{case}.tokens"]
    return tokens[:, tokens[0] >= 0]


@pytest.mark.parametrize(("stem", "dtype", "bound"), RUNS)
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits(stem: str, dtype: torch.dtype, bound: float, case: str) -> None:
    values, model = expected(GLM130B, stem), load(dtype)
    ids = prompt(values, case)
    length = ids.shape[1]
    mask = values[f"{case}.attention_mask"][:, :, :length, :length]
    positions = values[f"{case}.position_ids"][:, :length]
    given = model(ids, attention_mask=mask, position_ids=positions).logits
    assert_close(given, values[f"{case}.logits"], bound)
    assert_close(model(ids).logits, values[f"{case}.logits"], bound)


@pytest.mark.parametrize("case", CASES)
def test_positions_of_the_answer_to_come(case: str) -> None:
    values = expected(GLM130B)
    positions = load().derive_position_ids(prompt(values, case), length=LIMIT)
    assert torch.equal(positions, values[f"{case}.position_ids"])


@pytest.mark.parametrize(("stem", "dtype", "bound"), RUNS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"cache_implementation": "static"}], ids=str)
def test_greedy(stem: str, dtype: torch.dtype, bound: float, case: str, options: dict[str, Any]) -> None:
    values = expected(GLM130B, stem)
    assert_greedy(values, case, load(dtype), bound, **options)


@pytest.mark.parametrize("case", CASES)
def test_greedy_with_eager_attention(case: str) -> None:
    assert_greedy(expected(GLM130B), case, load(attn_implementation="eager"))


@pytest.mark.parametrize("case", CASES)
def test_greedy_from_given_mask_and_positions(case: str) -> None:
    values = expected(GLM130B)
    length = prompt(values, case).shape[1]
    mask = values[f"{case}.attention_mask"][:, :, :length, :length]
    positions = values[f"{case}.position_ids"][:, :length]
    assert_greedy(values, case, load(), attention_mask=mask, position_ids=positions)


def assert_greedy(
    values: dict[str, Tensor], case: str, model: GLM130BForCausalLM, bound: float = 1e-5, **options: Any
) -> None:
    output = model.generate(
        prompt(values, case),
        max_length=LIMIT,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )
    assert torch.equal(output.sequences, values[f"{case}.greedy_tokens"])
    assert_close(torch.stack(output.logits), values[f"{case}.greedy_logits"], bound)


def test_greedy_in_a_left_padded_batch() -> None:
    """Every row answers as it does alone, until it ends and is filled up with padding."""
    values, model = expected(GLM130B), load()
    rows = [prompt(values, case)[0] for case in CASES]
    width = max(map(len, rows))
    ids = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0), value=0) for row in rows])
    output = model.generate(ids, max_new_tokens=LIMIT - max(map(len, rows)), do_sample=False)
    for case, row, answered in zip(CASES, rows, output, strict=True):
        answer = values[f"{case}.greedy_tokens"][0, len(row) :]
        length = min(len(answer), LIMIT - width)
        assert torch.equal(answered[width : width + length], answer[:length])
        assert (answered[width + length :] == 0).all()


@pytest.mark.parametrize(("stem", "dtype", "bound"), RUNS)
@torch.no_grad()
def test_inside_the_layers(stem: str, dtype: torch.dtype, bound: float) -> None:
    values, model, seen = expected(GLM130B, stem), load(dtype), []
    hooks = [layer.register_forward_hook(lambda _, __, output: seen.append(output)) for layer in model.model.layers]
    try:
        output = model(prompt(values, "g"), use_cache=True)
    finally:
        for hook in hooks:
            hook.remove()
    for index, states in enumerate(seen):
        assert_close(states.transpose(0, 1), values[f"g.layer_output.{index}"], bound)
    cached = output.past_key_values.layers[0]
    memory = torch.cat([states.transpose(1, 2).flatten(2) for states in (cached.keys, cached.values)], dim=-1)
    assert_close(memory, values["g.layer0.mem_kv"], bound)


def test_rotary_table() -> None:
    values, rotary = expected(GLM130B), load().model.rotary_emb
    assert torch.equal(rotary.inv_freq, values["rotary.inv_freq"])
    for table, name in zip(rotary(torch.arange(39)[None], torch.float32), ("cos", "sin"), strict=True):
        wanted = values[f"rotary.{name}"]
        assert_close(table.reshape(wanted.shape), wanted, 1e-6)


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 0.7), (200, 0.0), (3, 0.3), (40, 0.9), (5, 0.0)])
def test_sampling_filters(top_k: int, top_p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its top-k and top-p keep the tokens that transformers' keep; 0 turns either off there, 1 turns top-p off here."""
    values = expected(GLM130B)
    logits = values["sampling.logits"]
    ids = prompt(values, "g").expand(len(logits), -1)
    output = answering(load(), logits, monkeypatch).generate(
        ids,
        max_new_tokens=1,
        do_sample=True,
        temperature=0.9,
        top_k=top_k,
        top_p=top_p or 1.0,
        output_scores=True,
        return_dict_in_generate=True,
    )
    assert_close(output.scores[0].clamp_min(-65504), values[f"sampling.k{top_k}_p{top_p}"])
