"""Decoding on a GPU with each step as one CUDA graph.

A token of ChatGLM-6B is about a thousand small kernels, and to start them takes a CPU several times as long as a GPU
needs for them. Recorded once and replayed they start together (`python benchmarks/gpu_generate.py`). What is recorded
has fixed addresses and shapes: the cache gets room for tokens to come, which the mask hides until they are there, and
a step is recorded again when the room is full.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from ..model.hooks import has_active_hooks
from .passes import register_step_maker

logger = logging.getLogger(__name__)

ROOM = 512  # tokens; recording takes as long as some ten steps
_ALIGNMENT = 8  # keys; for a mask of another width attention would make a wider one in every layer


def can_be_graphed(model: Any, cache: Cache) -> bool:
    """Whether all of a model is on one GPU and without hooks, and decodes with a cache that grows."""
    return (
        model.runtime.cuda_graphs
        and model.device.type == "cuda"
        and model.runtime.world is None
        and len({parameter.device for parameter in model.parameters()}) == 1
        and model.config._attn_implementation in ("sdpa", "eager")
        and type(cache) is DynamicCache
        and not has_active_hooks(map(vars, model.modules()))
    )


class GraphedSteps:
    """Logits of one token after another, of one sequence.

    Args:
        model: with a head, on a GPU.
        cache: holds the prompt. Its layers are replaced; nobody else may go on with it.
        longest: how many tokens the sequence may have.
    """

    def __init__(self, model: Any, cache: Cache, longest: int) -> None:
        self._model, self._cache, self._longest = model, cache, longest
        self._place = _Place(cache.get_seq_length(), model.device)
        self._room = 0

    def __call__(self, tokens: Tensor, position_ids: Tensor) -> Tensor:
        """Logits [1, 1, vocab] after one more token; they are overwritten by the next call's.

        Args:
            tokens: LongTensor [1, 1].
            position_ids: of that token, [1, 2, 1] or [1, 1].
        """
        if self._place.length >= self._room:
            self._make_room(tokens, position_ids)
            logits = self._step(tokens, position_ids, self._forward)  # compiles and tunes what recording must find done
            self._replay = self._record()
            return logits
        return self._step(tokens, position_ids, self._replay)

    def _make_room(self, tokens: Tensor, position_ids: Tensor) -> None:
        self._replay = self._forward  # lets go of the graph, and so of the old room
        least = min(self._place.length + ROOM, self._longest)
        self._room = -(-least // _ALIGNMENT) * _ALIGNMENT
        for number, layer in enumerate(self._cache.layers):  # one by one: not all are there twice at a time
            self._cache.layers[number] = _FixedLayer(layer, self._room, self._place)
        self._tokens, self._position_ids = torch.empty_like(tokens), torch.empty_like(position_ids)
        dtype = self._cache.layers[0].keys.dtype
        self._mask = torch.full((1, 1, 1, self._room), torch.finfo(dtype).min, dtype=dtype, device=tokens.device)
        self._mask[..., : self._place.length] = 0

    def _step(self, tokens: Tensor, position_ids: Tensor, run: Callable[[], Tensor]) -> Tensor:
        self._tokens.copy_(tokens)
        self._position_ids.copy_(position_ids)
        self._mask[..., self._place.length] = 0
        self._place.index.fill_(self._place.length)
        logits = run()
        self._place.length += 1
        return logits

    def _forward(self) -> Tensor:
        logits: Tensor = self._model(
            self._tokens,
            attention_mask=self._mask,
            position_ids=self._position_ids,
            cache=self._cache,
            use_cache=True,
        ).logits
        return logits

    def _record(self) -> Callable[[], Tensor]:
        try:
            return recorded(self._forward)
        except RuntimeError as error:  # whatever a driver or a library does not allow
            logger.warning("Decoding goes on without CUDA graphs: %s", str(error).partition("\n")[0])
            return self._forward


def recorded(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The same as one launch, with the same tensor as its result every time."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = run()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


class _Place:
    """Where the next token goes: a number for Python, and the same on the GPU."""

    def __init__(self, length: int, device: torch.device) -> None:
        self.length = length
        self.index = torch.tensor([length], device=device)


class _FixedLayer(DynamicLayer):
    """Keys and values [1, heads, room, head_dim] that a step writes into, where ``place`` says."""

    def __init__(self, layer: DynamicLayer, room: int, place: _Place) -> None:
        super().__init__()
        # Padded with zeros: what is hidden is multiplied by zero.
        self.keys, self.values = (
            F.pad(states[:, :, : place.length], (0, 0, 0, room - place.length)) for states in (layer.keys, layer.values)
        )
        self.dtype, self.device, self.is_initialized = self.keys.dtype, self.keys.device, True
        self._place = place

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.keys.index_copy_(2, self._place.index, key_states)
        self.values.index_copy_(2, self._place.index, value_states)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self._place.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.keys.shape[-2], 0


def recorded_steps(model: Any, cache: Cache, longest: int) -> GraphedSteps | None:
    """Return the steps of one row as CUDA graphs; None where :func:`can_be_graphed` says no."""
    return GraphedSteps(model, cache, longest) if can_be_graphed(model, cache) else None


register_step_maker(recorded_steps)
