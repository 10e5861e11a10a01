"""DeepNorm initialisation, gradient shrink, batches, and a run that is killed and resumed."""

import copy
import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from glm_model import ChatGLMConfig, ChatGLMForCausalLM
from glm_model.training import pretraining
from glm_model.training.initialization import deepnorm_initialize, shrink_embedding_gradient
from glm_model.training.objective import Example, SpecialIds, answer_example, collate, infilling_loss
from glm_model.training.pretraining import PretrainingOptions, batches, pretrain

SPECIAL = SpecialIds(mask=40, gmask=41, sop=42, eop=43, pad=3)


def make_model(hidden_size: int = 32, num_layers: int = 2) -> ChatGLMForCausalLM:
    config = ChatGLMConfig(
        vocab_size=48, hidden_size=hidden_size, num_layers=num_layers, num_attention_heads=2,
        inner_hidden_size=4 * hidden_size, pad_token_id=3, mask_token_id=40, gmask_token_id=41, bos_token_id=42,
        eos_token_id=43, deepnorm_alpha=(2 * num_layers) ** 0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    model = ChatGLMForCausalLM(config)
    deepnorm_initialize(model)
    return model


def copying(count: int) -> list[Example]:
    rng = random.Random(1)
    texts = [[rng.randrange(5, 40) for _ in range(rng.randint(1, 6))] for _ in range(count)]
    return [answer_example(text, text, SPECIAL) for text in texts]


def test_deepnorm_statistics() -> None:
    """Xavier: std = gain * sqrt(2 / (fan_in + fan_out)); gain (2N)^-1/2 for MLP, value, output, 1 for query, key."""
    hidden, layers = 256, 8
    model = make_model(hidden, layers)
    gain = (2 * layers) ** -0.5
    xavier = (2 / (hidden + hidden)) ** 0.5
    xavier_mlp = (2 / (hidden + 4 * hidden)) ** 0.5
    layers_of_model: Any = model.model.layers
    for layer in layers_of_model:
        head_size = hidden // 2
        for start, row in enumerate(layer.self_attn.query_key_value.weight.split(head_size)):
            expected = xavier * (gain if start % 3 == 2 else 1.0)
            assert row.std().item() == pytest.approx(expected, rel=0.03)
        assert layer.self_attn.dense.weight.std().item() == pytest.approx(gain * xavier, rel=0.03)
        assert layer.mlp.dense_h_to_4h.weight.std().item() == pytest.approx(gain * xavier_mlp, rel=0.03)
        assert layer.mlp.dense_4h_to_h.weight.std().item() == pytest.approx(gain * xavier_mlp, rel=0.03)
        assert not layer.self_attn.query_key_value.bias.any()
        assert not layer.mlp.dense_4h_to_h.bias.any()
    assert model.model.embed_tokens.weight.std().item() == pytest.approx(model.config.initializer_range, rel=0.05)


def test_gradient_shrink_keeps_the_value_and_a_tenth_of_the_gradient() -> None:
    embedding = torch.nn.Embedding(7, 5)
    ids = torch.tensor([[1, 2, 2]])
    plain = embedding(ids)
    plain.square().sum().backward()
    assert embedding.weight.grad is not None
    full = embedding.weight.grad.clone()
    embedding.weight.grad = None
    handle = shrink_embedding_gradient(embedding)
    shrunk = embedding(ids)
    torch.testing.assert_close(shrunk, plain)
    shrunk.square().sum().backward()
    torch.testing.assert_close(embedding.weight.grad, full * 0.1)
    handle.remove()
    assert torch.equal(embedding(ids), plain)


def test_batches_hold_every_example_once_an_epoch_and_fit() -> None:
    rng = random.Random(2)
    lengths = [rng.randint(1, 50) for _ in range(500)]
    order = batches(lengths, 100, seed=5)
    epochs: list[list[int]] = [[], []]
    for epoch in epochs:
        while len(epoch) < len(lengths):
            batch = next(order)
            assert len(batch) * max(lengths[index] for index in batch) <= 100
            epoch += batch
        assert sorted(epoch) == list(range(len(lengths)))
    assert epochs[0] != epochs[1]
    again = batches(lengths, 100, seed=5)
    assert list(itertools.chain(*itertools.islice(again, 3))) == epochs[0][: sum(map(len, _first(lengths, 3)))]


def _first(lengths: list[int], count: int) -> list[list[int]]:
    return list(itertools.islice(batches(lengths, 100, seed=5), count))


def test_a_sequence_longer_than_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="tokens_per_batch=10 cannot hold it"):
        next(batches([3, 11], 10, seed=0))


@pytest.mark.parametrize("bfloat16", [False, True])
def test_it_learns_to_copy(tmp_path: Path, bfloat16: bool) -> None:
    model, examples = make_model(64), copying(400)
    options = PretrainingOptions(
        steps=160, tokens_per_batch=512, learning_rate=4e-3, warmup_steps=10, decay_steps=40, bfloat16=bfloat16
    )
    before = loss_of(model, examples)
    pretrain(model, examples, options, tmp_path, show_progress=False)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert loss_of(model, examples) < 0.5 * before


def loss_of(model: ChatGLMForCausalLM, examples: list[Example]) -> float:
    with torch.no_grad():
        collated = collate(examples[:100], SPECIAL.pad)
        return infilling_loss(model, *collated).item()


class KilledError(Exception):
    pass


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the run die in its `step`-th optimizer step (counted from 1)."""
    calls = itertools.count(1)
    train_step = pretraining._train_step

    def dying(*arguments: object) -> tuple[float, int, int]:
        if next(calls) == step:
            raise KilledError
        return train_step(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(pretraining, "_train_step", dying)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_killed_run_goes_on_as_if_nothing_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bfloat16: bool
) -> None:
    examples = copying(80)
    options = PretrainingOptions(
        steps=12, tokens_per_batch=128, warmup_steps=3, decay_steps=4, checkpoint_every=4, bfloat16=bfloat16
    )
    whole = make_model()
    pretrain(whole, examples, options, tmp_path / "whole", show_progress=False)
    with monkeypatch.context() as patched:
        kill_at(7, patched)
        with pytest.raises(KilledError):
            pretrain(make_model(), examples, options, tmp_path / "killed", show_progress=False)
    resumed = make_model(num_layers=2)
    with torch.no_grad():
        resumed.model.norm.weight.fill_(5.0)  # whatever the fresh model holds, the checkpoint counts
    pretrain(resumed, examples, options, tmp_path / "killed", show_progress=False)
    for expected, found in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(expected, found)


def test_another_run_is_not_taken_for_this_one(tmp_path: Path) -> None:
    examples = copying(20)
    pretrain(make_model(), examples, PretrainingOptions(steps=1), tmp_path, show_progress=False)
    with pytest.raises(ValueError, match="belongs to another run"):
        pretrain(make_model(), examples, PretrainingOptions(steps=2), tmp_path, show_progress=False)


@pytest.mark.parametrize("other", ["examples", "configuration"])
def test_another_run_of_the_same_options_is_not_taken_for_this_one(tmp_path: Path, other: str) -> None:
    examples, model, options = copying(20), make_model(), PretrainingOptions(steps=1)
    pretrain(model, examples, options, tmp_path, show_progress=False)
    pretrain(make_model(), copying(20), options, tmp_path, show_progress=False)
    if other == "examples":
        answer = examples[7].targets.copy()
        answer[-1] = 6
        examples[7] = Example(examples[7].input_ids, examples[7].position_ids, answer)
    again = make_model()
    if other == "configuration":
        again.config.layernorm_epsilon *= 2
    with pytest.raises(ValueError, match="belongs to another run"):
        pretrain(again, examples, options, tmp_path, show_progress=False)


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_a_truncated_checkpoint_is_named(tmp_path: Path, kept: int) -> None:
    options, file = PretrainingOptions(steps=1), tmp_path / "training.pt"
    pretrain(make_model(), copying(20), options, tmp_path, show_progress=False)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"training\.pt is truncated, damaged or no checkpoint"):
        pretrain(make_model(), copying(20), options, tmp_path, show_progress=False)


def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    torch.save({"weights": torch.ones(2)}, tmp_path / "training.pt")
    with pytest.raises(ValueError, match=r"training\.pt is .* no checkpoint"):
        pretrain(make_model(), copying(20), PretrainingOptions(steps=1), tmp_path, show_progress=False)


@pytest.mark.parametrize("tied", [True, False])
def test_every_weight_is_in_one_optimizer(tied: bool) -> None:
    model = make_model()
    if not tied:
        config = copy.deepcopy(model.config)
        config.tie_word_embeddings = False
        model = ChatGLMForCausalLM(config)
    optimizers, _ = pretraining.make_optimizer(model, PretrainingOptions(steps=1))
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    held = [parameter for group in groups for parameter in group["params"]]
    assert len(held) == len(list(model.parameters()))
    assert {id(parameter) for parameter in held} == {id(parameter) for parameter in model.parameters()}
    (decay,) = (g["weight_decay"] for g in groups if any(p is model.lm_head.weight for p in g["params"]))
    assert decay == PretrainingOptions.weight_decay


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "steps must be positive"),
        ({"warmup_steps": -1}, "warmup_steps must be 0 or more, not -1"),
        ({"decay_steps": -1}, "decay_steps must be 0 or more, not -1"),
        ({"short_steps": -1}, "short_steps must be 0 or more, not -1"),
        ({"short_length": -1}, "short_length must be 0 or more, not -1"),
        ({"weight_decay": -0.1}, "weight_decay must be 0 or more, not -0.1"),
        ({"weight_decay": float("nan")}, "weight_decay must be 0 or more, not nan"),
        ({"short_steps": 2}, "short_steps=2 needs a short_length"),
    ],
)
def test_options_are_checked(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PretrainingOptions(**{"steps": 5, **options})


def test_no_short_sequence_and_no_sequence_at_all() -> None:
    options = PretrainingOptions(steps=5, short_steps=2, short_length=3)
    with pytest.raises(ValueError, match=r"at most short_length=3 ids \(the shortest has 4\)"):
        next(pretraining._order([4, 9], options))
    for each in (options, PretrainingOptions(steps=5)):
        with pytest.raises(ValueError, match="no examples"):
            next(pretraining._order([], each))


def test_short_sequences_come_first() -> None:
    lengths = [5, 30, 6, 40, 7, 50, 8] * 20
    options = PretrainingOptions(steps=9, tokens_per_batch=60, short_steps=30, short_length=10)
    order = pretraining._order(lengths, options)
    first = list(itertools.islice(order, 30))
    assert {lengths[index] for batch in first for index in batch} == {5, 6, 7, 8}
    assert sum(map(len, itertools.islice(order, 30))) < sum(map(len, first))
    rest = itertools.islice(pretraining._order(lengths, options), 30, 300)
    assert {lengths[index] for batch in rest for index in batch} == set(lengths)
