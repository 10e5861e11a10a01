"""Trains a model: batches of similar length, Muon and AdamW on float32 weights, checkpoints to resume from.

The order of batches depends only on the seed and the epoch, so a run that was interrupted and resumed makes the same
steps as one that was not.
"""

import copy
import hashlib
import itertools
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm
from transformers import get_wsd_schedule

from ..model.decoder import GLMForCausalLM
from . import checkpoint
from .initialization import shrink_embedding_gradient
from .objective import IGNORED, Example, collate, infilling_loss

# Examples are sorted by length within windows of this many batches: a batch has little padding, yet batches are random.
_BATCHES_PER_WINDOW = 100


@dataclass(frozen=True)
class PretrainingOptions:
    """How long and how fast to train.

    Args:
        steps: number of optimizer steps.
        tokens_per_batch: largest number of ids in a batch, padding included.
        learning_rate: highest learning rate. It is reached after `warmup_steps`, kept, and lowered to 0 along a cosine
            in the last `decay_steps`.
        warmup_steps: steps in which the learning rate rises from 0.
        decay_steps: last steps, in which the learning rate falls.
        short_steps: number of first steps that use only sequences of up to `short_length` ids, of which more fit into
            a batch. Needs a `short_length`.
        short_length: largest number of ids of a sequence in the first `short_steps`.
        weight_decay: weight decay of matrices; biases and LayerNorms have none.
        max_gradient_norm: the norm to which the gradients are clipped.
        bfloat16: run forward and backward pass in bfloat16 on a copy of the weights; the master weights, clipping and
            optimizers stay float32 (the mixed precision of the GLM-130B paper, section 3.3).
        seed: seed of the order of batches.
        checkpoint_every: steps between two checkpoints.

    Raises:
        ValueError: a value is outside its range.
    """

    steps: int
    tokens_per_batch: int = 4096
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    decay_steps: int = 0
    short_steps: int = 0
    short_length: int = 0
    weight_decay: float = 0.1
    max_gradient_norm: float = 1.0
    bfloat16: bool = False
    seed: int = 0
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        for name in ("steps", "tokens_per_batch", "learning_rate", "max_gradient_norm", "checkpoint_every"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("warmup_steps", "decay_steps", "short_steps", "short_length", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if self.short_steps and not self.short_length:
            raise ValueError(f"short_steps={self.short_steps} needs a short_length: up to how many ids is short?")


def _order(lengths: Sequence[int], options: PretrainingOptions) -> Iterator[list[int]]:
    """Yield the batches of a run: `short_steps` of short sequences, then batches of all.

    Raises:
        ValueError: see :func:`batches`; or short sequences are wanted and there are none.
    """
    short = [index for index, length in enumerate(lengths) if length <= options.short_length]
    if options.short_steps:
        if lengths and not short:
            raise ValueError(
                f"no sequence has at most short_length={options.short_length} ids (the shortest has {min(lengths)}): "
                "raise it, or set short_steps to 0"
            )
        first = batches([lengths[index] for index in short], options.tokens_per_batch, options.seed)
        for batch in itertools.islice(first, options.short_steps):
            yield [short[index] for index in batch]
    yield from batches(lengths, options.tokens_per_batch, options.seed)


def batches(lengths: Sequence[int], tokens_per_batch: int, seed: int) -> Iterator[list[int]]:
    """Yield batches of indices without end, epoch after epoch.

    The longest length of a batch times its size is at most `tokens_per_batch`.

    Raises:
        ValueError: there is no sequence, or one is longer than `tokens_per_batch`.
    """
    if not lengths:
        raise ValueError("there are no examples to train on")
    if max(lengths) > tokens_per_batch:
        raise ValueError(f"a sequence has {max(lengths)} ids; tokens_per_batch={tokens_per_batch} cannot hold it")
    epoch = 0
    while True:
        rng = random.Random(f"batches/{seed}/{epoch}")
        yield from _epoch(lengths, tokens_per_batch, rng)
        epoch += 1


def _epoch(lengths: Sequence[int], tokens_per_batch: int, rng: random.Random) -> Iterator[list[int]]:
    order = list(range(len(lengths)))
    rng.shuffle(order)
    window = _BATCHES_PER_WINDOW * max(1, tokens_per_batch * len(lengths) // sum(lengths))
    for start in range(0, len(order), window):
        group = sorted(order[start : start + window], key=lambda index: lengths[index])
        cut = list(_cut(group, lengths, tokens_per_batch))
        rng.shuffle(cut)
        yield from cut


def _cut(indices: Sequence[int], lengths: Sequence[int], tokens_per_batch: int) -> Iterator[list[int]]:
    """Yield consecutive batches of indices; the indices must be sorted by length, in ascending order."""
    batch: list[int] = []
    for index in indices:
        if batch and (len(batch) + 1) * lengths[index] > tokens_per_batch:
            yield batch
            batch = []
        batch.append(index)
    yield batch


def make_optimizer(model: GLMForCausalLM, options: PretrainingOptions) -> tuple[list[Optimizer], list[LRScheduler]]:
    """Return the optimizers of a model and a schedule of the learning rate for each.

    Muon updates the matrices of the layers. AdamW (betas 0.9 and 0.95, as in the GLM-130B paper) updates the embedding,
    a head that is not tied to it, biases and LayerNorms; the last two have no weight decay. Muon's update is scaled to
    the size of AdamW's, so that one learning rate serves both.
    """
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    embedding, head = model.model.embed_tokens.weight, model.lm_head.weight
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [
        {"params": [embedding] if head is embedding else [embedding, head], "weight_decay": options.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    decay = options.weight_decay
    optimizers: list[Optimizer] = [
        Muon(matrices, lr=options.learning_rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.95), fused=True),
    ]
    schedules: list[LRScheduler] = [
        get_wsd_schedule(optimizer, options.warmup_steps, options.decay_steps, num_training_steps=options.steps)
        for optimizer in optimizers
    ]
    return optimizers, schedules


def pretrain(
    model: GLMForCausalLM,
    examples: Sequence[Example],
    options: PretrainingOptions,
    run_folder: Path,
    *,
    show_progress: bool = True,
) -> None:
    """Train a model on examples; resume the run whose checkpoint is in `run_folder`.

    Args:
        model: the model in float32, trained in place.
        examples: the sequences to train on.
        options: how long and how fast to train.
        run_folder: folder of the run's checkpoint.
        show_progress: show a progress bar.

    Raises:
        ValueError: the run in `run_folder` has other options or examples or another configuration of the model, or its
            checkpoint is damaged; or there are no examples, or none that fits the options.
        FloatingPointError: the loss is not finite.
    """
    optimizers, schedules = make_optimizer(model, options)
    lengths = [len(example) for example in examples]
    state = checkpoint.TrainingState(model, optimizers, schedules, _identity(model, examples, options))
    done = checkpoint.load_latest(state, run_folder)
    order = _order(lengths, options)
    for _ in range(done):
        next(order)
    working = copy.deepcopy(model).bfloat16() if options.bfloat16 else model
    attention = model.config._attn_implementation
    # On a CPU, the backward pass of torch's fused attention would take most of a step with sequences this short.
    working.set_attn_implementation("eager")
    handle = shrink_embedding_gradient(working.model.embed_tokens)
    working.train()
    try:
        with tqdm(total=options.steps, initial=done, desc="pretraining", disable=not show_progress) as bar:
            meter = Meter(bar)
            for step in range(done, options.steps):
                batch = [examples[index] for index in next(order)]
                meter.update(*_train_step(model, working, batch, optimizers, schedules, options))
                if (step + 1) % options.checkpoint_every == 0 or step + 1 == options.steps:
                    checkpoint.save(state, run_folder, step + 1)
    finally:
        handle.remove()
        working.set_attn_implementation(attention)
        model.eval()


def _identity(model: GLMForCausalLM, examples: Sequence[Example], options: PretrainingOptions) -> str:
    """Return a text that identifies a run: options, examples and configuration, on which its steps depend.

    The first weights are not included, because a resumed run does not use them.
    """
    fields = model.config.to_diff_dict()
    fields.pop("transformers_version", None)  # a run may be resumed with another version of transformers
    configuration = hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode())
    content = hashlib.sha256()
    for example in examples:
        content.update(len(example).to_bytes(8))  # so that the ends of examples count
        for values in (example.input_ids, example.position_ids, example.targets):
            content.update(values.tobytes())
    return (
        f"{options}, {len(examples)} examples {content.hexdigest()[:16]}, "
        f"configuration {configuration.hexdigest()[:16]}"
    )


def _train_step(
    master: GLMForCausalLM,
    working: GLMForCausalLM,
    batch: list[Example],
    optimizers: list[Optimizer],
    schedules: list[LRScheduler],
    options: PretrainingOptions,
) -> tuple[float, int, int]:
    """Make one optimizer step. Return the loss and the numbers of ids (without padding) and targets of the batch.

    Args:
        master: the model in float32 that the optimizers update.
        working: the model that computes: `master` itself, or its copy in bfloat16.
        batch: the sequences of this step.
        optimizers, schedules: see :func:`make_optimizer`.
        options: gives the largest norm of the gradients.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    input_ids, position_ids, targets = collate(batch, master.config.pad_token_id)
    loss = infilling_loss(working, input_ids, position_ids, targets)
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss became {loss.item()}; lower the learning rate")
    loss.backward()
    if working is not master:
        _move_gradients(working, master)
    nn.utils.clip_grad_norm_(master.parameters(), options.max_gradient_norm)
    for optimizer, schedule in zip(optimizers, schedules, strict=True):
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    if working is not master:
        _copy_weights(master, working)
    return loss.item(), sum(map(len, batch)), int((targets != IGNORED).sum())


def _move_gradients(working: nn.Module, master: nn.Module) -> None:
    """Move the gradients of the working copy to the master weights, in their dtype."""
    for low, high in zip(working.parameters(), master.parameters(), strict=True):
        high.grad, low.grad = None if low.grad is None else low.grad.to(high.dtype), None


@torch.no_grad()
def _copy_weights(master: nn.Module, working: nn.Module) -> None:
    """Copy the master weights into the working copy, in its dtype."""
    for low, high in zip(working.parameters(), master.parameters(), strict=True):
        low.copy_(high)


class Meter:
    """A display of the smoothed loss and the speed beside the progress bar."""

    def __init__(self, bar: "tqdm[None]") -> None:
        self.bar = bar
        self.loss: float | None = None
        self.tokens = 0
        self.targets = 0
        self.start = time.perf_counter()

    def update(self, loss: float, tokens: int, targets: int) -> None:
        """Add the loss, the ids and the targets of one step, and move the bar."""
        self.loss = loss if self.loss is None else 0.98 * self.loss + 0.02 * loss
        self.tokens += tokens
        self.targets += targets
        seconds = time.perf_counter() - self.start
        self.bar.set_postfix_str(
            f"loss {self.loss:.4f}, {self.tokens / seconds:.0f} tokens/s ({self.targets / seconds:.0f} predicted)",
            refresh=False,
        )
        self.bar.update()
