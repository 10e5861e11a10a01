"""The same rules on data that no set has: the model against tests/reference.py on drawn shapes, ids and inputs.

Heads that are no power of two, special ids anywhere in the vocabulary, several blanks in a prompt, padding, prefixes,
masks and positions from outside; both architectures. The reference computes in float64.
"""

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from glm_model import ChatGLMConfig, ChatGLMForCausalLM, GLM130BConfig, GLM130BForCausalLM
from glm_model.generation.transformers_hooks import generate_steps
from tests.golden.data import assert_close
from tests.golden.models import published_name
from tests.reference import (
    Shape,
    SpecialIds,
    Weights,
    chatglm_positions,
    context_mask,
    forward,
    glm130b_positions,
    left_pad,
    random_weights,
    shifted_loss,
)

SEEDS = range(8)


@dataclass(frozen=True)
class Drawn:
    """A drawn shape with its model (float32), the reference's weights (float64), and a source of more chance."""

    model: Any
    weights: Weights
    shape: Shape
    special: SpecialIds
    pad: int
    ordinary: list[int]
    chance: random.Random

    def words(self, count: int) -> list[int]:
        """Ordinary tokens."""
        return self.chance.choices(self.ordinary, k=count)

    def prompt(self) -> list[int]:
        """A context with one to three blanks of any kind, and a <sop>."""
        kinds = [self.special.mask, self.special.gmask]
        if self.shape.glm130b:
            assert self.special.smask is not None
            kinds.append(self.special.smask)
        ids = self.words(self.chance.randint(2, 20))
        for _ in range(self.chance.randint(1, 3)):
            ids.insert(self.chance.randint(1, len(ids)), self.chance.choice(kinds))
        return [*ids, self.special.sop]

    def positions(self, ids: list[int]) -> Tensor:
        rule = glm130b_positions if self.shape.glm130b else chatglm_positions
        return rule(ids, self.special)

    def logits(self, ids: list[int]) -> Tensor:
        """The reference's logits [S, vocab] of one sequence, masks and positions by rule."""
        mask = context_mask(ids, self.special.sop)[None, None]
        return self.run(torch.tensor([ids]), self.positions(ids)[None], mask)[0]

    def run(self, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        return forward(self.weights, self.shape, ids, positions, mask).logits


@cache
def draw(seed: int, glm130b: bool) -> Drawn:
    chance = random.Random(f"{seed} {glm130b}")
    generator = torch.Generator().manual_seed(seed)
    layers, heads, head_dim = chance.randint(1, 3), chance.choice([1, 3, 5, 6]), chance.choice([8, 12, 20])
    hidden, inner, vocab = heads * head_dim, chance.randint(20, 150), chance.randint(60, 300)
    mask, gmask, smask, sop, eop, pad = chance.sample(range(vocab), 6)
    sizes = {
        "num_layers": layers,
        "num_attention_heads": heads,
        "hidden_size": hidden,
        "inner_hidden_size": inner,
        "vocab_size": vocab,
        "bos_token_id": sop,
        "eos_token_id": eop,
        "pad_token_id": pad,
        "mask_token_id": mask,
        "gmask_token_id": gmask,
        "tie_word_embeddings": chance.random() < 0.5,
        "use_cache": True,
        "layernorm_epsilon": chance.choice([1e-5, 1e-3]),
    }
    alpha = chance.choice([None, 2.0, 9.0])
    if glm130b:
        config = GLM130BConfig(**sizes, smask_token_id=smask, deepnorm_alpha=alpha)
        original_alpha = (2 * layers) ** 0.5
    else:
        prefix = chance.choice([None, 1, 7])
        config = ChatGLMConfig(
            **sizes, deepnorm_alpha=alpha, pre_seq_len=prefix, prefix_projection=chance.random() < 0.5
        )
        original_alpha = (2 * 28) ** 0.5
    shape = Shape(layers, heads, alpha or original_alpha, glm130b, config.layernorm_epsilon)
    weights = random_weights(shape, hidden, inner, vocab, generator, tied=config.tie_word_embeddings)
    model = (GLM130BForCausalLM if glm130b else ChatGLMForCausalLM)(config).eval()
    adopt(model, weights, generator)
    weights = {name: value.double() for name, value in weights.items()}
    special = SpecialIds(mask, gmask, sop, smask if glm130b else None)
    ordinary = sorted(set(range(vocab)) - {mask, gmask, smask, sop, eop, pad})
    return Drawn(model, weights, shape, special, pad, ordinary, chance)


@torch.no_grad()
def adopt(model: Any, weights: Weights, generator: torch.Generator) -> None:
    """Give the model these weights, and the weights the prefix that the model has room for."""
    for name, parameter in model.named_parameters():
        if "prefix_encoder" in name:
            weights[published_name(name)] = torch.randn(parameter.shape, generator=generator) * 0.5
        parameter.copy_(weights[published_name(name)])


@pytest.fixture(params=[(seed, big) for seed in SEEDS for big in (False, True)], ids=str)
def drawn(request: pytest.FixtureRequest) -> Drawn:
    seed, glm130b = request.param
    return draw(seed, glm130b)


@torch.no_grad()
def test_logits_of_a_prompt(drawn: Drawn) -> None:
    for _ in range(4):
        ids = drawn.prompt()
        assert_close(drawn.model(torch.tensor([ids])).logits[0], drawn.logits(ids).float())


@torch.no_grad()
def test_eager_attention(drawn: Drawn) -> None:
    ids = drawn.prompt()
    drawn.model.set_attn_implementation("eager")
    try:
        logits = drawn.model(torch.tensor([ids])).logits[0]
    finally:
        drawn.model.set_attn_implementation("sdpa")
    assert_close(logits, drawn.logits(ids).float())


@torch.no_grad()
def test_half_on_cpu_takes_the_same_steps(drawn: Drawn) -> None:
    """Rounded after each operation, two orders of them would differ in the third digit."""
    ids = drawn.prompt()
    logits = copy.deepcopy(drawn.model).half()(torch.tensor([ids])).logits[0]
    weights = {name: value.half() for name, value in drawn.weights.items()}
    assert_close(logits, replace(drawn, weights=weights).logits(ids), 1e-6)


@torch.no_grad()
def test_left_padded_rows_equal_single_ones(drawn: Drawn) -> None:
    """Padding is found by its id or told by a 0/1 mask; then a real token may have the padding's id too."""
    rows = [drawn.prompt() for _ in range(3)]
    check_rows(drawn, rows, told=False)
    check_rows(drawn, [[drawn.pad, *row] for row in rows], told=True)


def check_rows(drawn: Drawn, rows: list[list[int]], told: bool) -> None:
    width = max(map(len, rows))
    ids = torch.tensor([[drawn.pad] * (width - len(row)) + row for row in rows])
    visible = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    logits = drawn.model(ids, attention_mask=visible if told else None).logits
    for row, row_logits in zip(rows, logits, strict=True):
        assert_close(row_logits[width - len(row) :], drawn.logits(row).float())


@torch.no_grad()
def test_a_batch_padded_by_the_tokenizer(drawn: Drawn) -> None:
    rows = [drawn.prompt() for _ in range(3)]
    masks = [context_mask(row, drawn.special.sop) for row in rows]
    ids, mask, positions = left_pad(rows, masks, [drawn.positions(row) for row in rows], drawn.pad)
    logits = drawn.model(ids, attention_mask=mask, position_ids=positions).logits
    assert_close(logits, drawn.run(ids, positions, mask).float())


@torch.no_grad()
def test_any_mask_and_any_positions(drawn: Drawn) -> None:
    """Masks and positions from outside count as they are; ids then need neither blank nor <sop>."""
    batch, length = 2, drawn.chance.randint(2, 15)
    ids = torch.tensor([drawn.words(length) for _ in range(batch)])
    generator = torch.Generator().manual_seed(length)
    mask = torch.rand(batch, 1, length, length, generator=generator) < 0.4
    rows = (batch, length) if drawn.shape.glm130b else (batch, 2, length)
    positions = torch.randint(0, 2048, rows, generator=generator)
    logits = drawn.model(ids, attention_mask=mask, position_ids=positions).logits
    assert_close(logits, drawn.run(ids, positions, mask).float())


class Dictate(LogitsProcessor):
    """Makes the model write a given answer, whatever it thinks of it, and keeps what it thought."""

    def __init__(self, answer: list[int], prompt_length: int) -> None:
        self.answer, self.prompt_length = answer, prompt_length
        self.thoughts: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.thoughts.append(scores)
        dictated = torch.full_like(scores, -1e9)
        dictated[:, self.answer[input_ids.shape[1] - self.prompt_length]] = 0.0
        return dictated


def generate(model: Any, ids: Tensor, **options: Any) -> Tensor:
    return model.generate(ids, **options)


def stream(model: Any, ids: Tensor, **options: Any) -> Tensor:
    """The same through the loop of `stream_chat` and the front-ends."""
    *_, (all_ids, _) = generate_steps(model, ids, **options)
    return all_ids


def dictated_logits(
    drawn: Drawn, ids: list[int], answer: list[int], write: Callable[..., Tensor] = generate, **options: Any
) -> Tensor:
    """Logits [steps, vocab] before each token of the answer."""
    dictate = Dictate(answer, len(ids))
    options |= {"max_length": len(ids) + len(answer), "do_sample": False}
    written = write(drawn.model, torch.tensor([ids]), logits_processor=LogitsProcessorList([dictate]), **options)
    assert written[0].tolist() == ids + answer
    return torch.cat(dictate.thoughts)


def reference_steps(drawn: Drawn, ids: list[int], answer: list[int]) -> Tensor:
    """The same from the reference: a token keeps the position that it got in the step that wrote it."""
    positions = drawn.positions(ids)
    for end in range(1, len(answer)):
        column = step_position(drawn, ids, answer[:end])
        positions = torch.cat([positions, column], dim=-1)
    sequence = [*ids, *answer[:-1]]
    mask = context_mask(sequence, drawn.special.sop)
    logits = drawn.run(torch.tensor([sequence]), positions[None], mask[None, None])
    return logits[0, len(ids) - 1 :].float()


def step_position(drawn: Drawn, ids: list[int], written: list[int]) -> Tensor:
    """ChatGLM looks for the blank in all ids so far; GLM-130B fixed all positions before it began."""
    if drawn.shape.glm130b:
        return drawn.positions(ids + drawn.words(len(written)))[-1:]
    return drawn.positions(ids + written)[:, -1:]


@pytest.mark.parametrize("options", [{}, {"cache_implementation": "static"}], ids=["dynamic", "static"])
def test_steps_of_generation(drawn: Drawn, options: dict[str, Any]) -> None:
    ids, answer = drawn.prompt(), drawn.words(6)
    assert_close(dictated_logits(drawn, ids, answer, **options), reference_steps(drawn, ids, answer))


@pytest.mark.parametrize("write", [generate, stream])
@pytest.mark.parametrize("options", [{}, {"cache_implementation": "static"}], ids=["dynamic", "static"])
def test_a_text_that_begins_with_the_paddings_id(
    drawn: Drawn, options: dict[str, Any], write: Callable[..., Tensor]
) -> None:
    """A mask of ones says that it is text, here as in the forward pass."""
    ids, answer = [drawn.pad, drawn.pad, *drawn.prompt()], drawn.words(4)
    found = dictated_logits(drawn, ids, answer, write, attention_mask=torch.ones(1, len(ids)), **options)
    assert_close(found, reference_steps(drawn, ids, answer))


@pytest.mark.parametrize("write", [generate, stream])
@pytest.mark.parametrize("token", ["mask", "gmask", "sop"])
def test_a_special_token_in_the_answer(drawn: Drawn, token: str, write: Callable[..., Tensor]) -> None:
    """A written [gMASK] moves the blank of a ChatGLM prompt that has only a [MASK]; nothing else moves."""
    ids = [*drawn.words(3), drawn.chance.choice([drawn.special.mask, drawn.special.gmask]), *drawn.words(2)]
    ids.append(drawn.special.sop)
    answer = [*drawn.words(2), getattr(drawn.special, token), *drawn.words(3)]
    assert_close(dictated_logits(drawn, ids, answer, write), reference_steps(drawn, ids, answer))


@pytest.mark.parametrize("glm130b", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
# In float32 the order of sums, which follows from where tensors lie in memory, changes a gradient by up to 1.6e-5 here,
# the reference's as the model's. In float64 only the rotary angles are float32.
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-6), (torch.float32, 1e-4)], ids=str)
def test_loss_and_gradients(dtype: torch.dtype, bound: float, seed: int, glm130b: bool) -> None:
    drawn = draw(seed, glm130b)
    drawn.model.to(dtype)
    rows = [drawn.prompt() + drawn.words(4) for _ in range(2)]
    width = min(map(len, rows))
    ids = torch.tensor([row[len(row) - width :] for row in rows])
    labels = torch.where(torch.rand(ids.shape, generator=torch.Generator().manual_seed(seed)) < 0.5, ids, -100)
    mask = torch.stack([context_mask(ids[0].tolist(), drawn.special.sop)[None]] * 2)
    length = ids.shape[1]
    positions = torch.arange(length).expand(2, length) if glm130b else torch.arange(length).expand(2, 2, length)

    weights = {name: value.clone().requires_grad_() for name, value in drawn.weights.items()}
    wanted = shifted_loss(forward(weights, drawn.shape, ids, positions, mask).logits, labels)
    wanted.backward()
    drawn.model.zero_grad()
    loss = drawn.model(ids, attention_mask=mask, position_ids=positions, labels=labels).loss
    loss.backward()
    assert_close(loss, wanted)
    for name, parameter in drawn.model.named_parameters():
        if parameter.requires_grad:
            wanted_gradient = weights[published_name(name)].grad
            assert parameter.grad is not None
            assert wanted_gradient is not None
            assert_close(parameter.grad, wanted_gradient, bound)
