"""Turn a model into one stage of a pipeline, which receives hidden states from the stage before and sends its own on.

Every rank is given the same ids, so each computes masks and positions itself, and only hidden states are sent. A stage
receives them in the place of its embedding and sends them in the place of its final norm. The last stage sends its
states to the first one, which holds the head because the head is tied to the embedding. The first stage sends the
scores to all ranks, so that every rank continues with the same token.

transformers' own pipeline does not suit: its later stages never see the ids, from which GLM's mask is derived, it keeps
the embedding twice, its split counts layers only, and in 5.17 it cannot be combined with tensor parallelism.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from ..model.split import stage_layers


class Line:
    """The ranks that hold the stages of a pipeline, and the stage of this rank."""

    def __init__(self, mesh: DeviceMesh) -> None:
        self.stage, self.last = mesh.get_local_rank(), mesh.size() - 1
        self._group = mesh.get_group()

    def send(self, states: Tensor, stage: int) -> None:
        dist.send(states.contiguous(), self._rank(stage), group=self._group)

    def receive(self, into: Tensor, stage: int) -> Tensor:
        dist.recv(into, self._rank(stage), group=self._group)
        return into

    def from_first(self, scores: Tensor) -> Tensor:
        """Return the first stage's tensor on all stages; the others pass one of its shape, which is overwritten."""
        scores = scores.contiguous()
        dist.broadcast(scores, self._rank(0), group=self._group)
        return scores

    def _rank(self, stage: int) -> int:
        return dist.get_global_rank(self._group, stage)


class ReceiveStates(nn.Module):
    """Replacement of the embedding: receives the states [batch, length, hidden] of the stage before for its ids."""

    probe: Tensor

    def __init__(self, line: Line, hidden_size: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.line, self.hidden_size = line, hidden_size
        # Follows the model's device and dtype through `.half()`, `.to(...)` and the like.
        self.register_buffer("probe", torch.empty(0, dtype=dtype), persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        hidden_states = self.probe.new_empty(*input_ids.shape, self.hidden_size)
        return self.line.receive(hidden_states, self.line.stage - 1)


class SendStates(nn.Module):
    """Replacement of the final norm: sends the hidden states to the next stage."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self.line = line

    def forward(self, hidden_states: Tensor) -> Tensor:
        self.line.send(hidden_states, self.line.stage + 1)
        return hidden_states


class ReceiveScores(nn.Module):
    """Replacement of the head: sends the last hidden states to the first stage, and receives its scores."""

    def __init__(self, line: Line, vocabulary: int) -> None:
        super().__init__()
        self.line, self.vocabulary = line, vocabulary

    def forward(self, hidden_states: Tensor) -> Tensor:
        if self.line.stage == self.line.last:
            self.line.send(hidden_states, 0)
        return self.line.from_first(hidden_states.new_empty(*hidden_states.shape[:-1], self.vocabulary))


class Elsewhere(nn.Module):
    """Replacement of a layer that another stage holds: returns its input."""

    def forward(self, hidden_states: Tensor, **kwargs: object) -> Tensor:
        return hidden_states


def become_stage(model: Any, mesh: DeviceMesh) -> None:
    """Reduce a model on the meta device to the stage of this rank.

    Args:
        model: a GLM with its head.
        mesh: the ranks of the pipeline, one-dimensional.
    """
    config, decoder, dtype = model.config, model.model, model.dtype
    line = Line(mesh)
    own = stage_layers(config, mesh.size(), 8 * dtype.itemsize)[line.stage]
    for index, layer in enumerate(decoder.layers):
        if index in own:
            layer.self_attn.cache_idx = index - own.start
        else:
            decoder.layers[index] = Elsewhere()
    if line.stage != line.last:
        decoder.norm = SendStates(line)
    send_scores(model, line)
    if line.stage != 0:
        decoder.embed_tokens = ReceiveStates(line, config.hidden_size, dtype)
        model.lm_head = ReceiveScores(line, config.vocab_size)
        model._tied_weights_keys = model.all_tied_weights_keys = {}
    model._keys_to_ignore_on_load_unexpected = {
        *model._keys_to_ignore_on_load_unexpected,
        *_elsewhere(line, own, config.num_layers),
    }


def send_scores(model: Any, line: Line) -> None:
    """Make the head of the first stage use the last stage's hidden states and send its scores to all stages.

    On the other stages :class:`ReceiveScores` replaces the head, and this function does nothing.
    """
    if line.stage != 0:
        return

    def receive_states(_: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
        (own,) = arguments
        return (line.receive(own.new_empty(own.shape), line.last),)

    def share_scores(_: nn.Module, __: tuple[Tensor], scores: Tensor) -> Tensor:
        return line.from_first(scores)

    model.lm_head.register_forward_pre_hook(receive_states)
    model.lm_head.register_forward_hook(share_scores)


def _elsewhere(line: Line, own: range, layers: int) -> list[str]:
    """Return patterns of the names of other stages' tensors, which are in the files but not in this stage."""
    others = "|".join(str(index) for index in range(layers) if index not in own)
    patterns = [rf"^model\.layers\.({others})\."]
    if line.stage != 0:
        patterns.append(r"^(model\.embed_tokens|lm_head)\.")
    if line.stage != line.last:
        patterns.append(r"^model\.norm\.")
    return patterns
