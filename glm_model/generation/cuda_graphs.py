"""Decode on a GPU with each step as one CUDA graph.

One step of ChatGLM-6B launches about a thousand small kernels, and the launches take a CPU several times as long as the
kernels take a GPU. Captured once as a graph, all of them start with one launch (`python benchmarks/gpu_generate.py`). A
graph has fixed addresses and shapes. The cache is therefore given capacity for tokens to come, which the mask hides
until they are written, and a new graph is captured when the capacity is used up.
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from ..model.hooks import has_active_hooks
from .passes import CausalModel, register_step_maker

logger = logging.getLogger(__name__)

CAPACITY_STEP = 512  # tokens by which the cache grows; capturing a graph takes about as long as ten steps
_ALIGNMENT = 8  # keys; a mask of another width would be copied into a wider one by the attention of every layer


def aligned(keys: int) -> int:
    """Return the least number of keys, no less than ``keys``, for which attention needs no copy of its mask."""
    return -(-keys // _ALIGNMENT) * _ALIGNMENT


def can_be_graphed(model: CausalModel, cache: Cache) -> bool:
    """Return whether the steps of a model may be CUDA graphs, and it decodes with a growing cache."""
    return model.runtime.cuda_graphs and type(cache) is DynamicCache and is_whole_on_one_gpu(model)


def is_whole_on_one_gpu(model: CausalModel) -> bool:
    """Return whether a model is whole on one GPU, and has no active hooks."""
    return (
        isinstance(model, nn.Module)
        and model.device.type == "cuda"
        and model.runtime.world is None
        and len({parameter.device for parameter in model.parameters()}) == 1
        and model.config._attn_implementation in ("sdpa", "eager")
        and not has_active_hooks(map(vars, model.modules()))
    )


class GraphedSteps:
    """The decoding steps of one sequence, each a replayed CUDA graph.

    Args:
        model: a model with its head, on a GPU.
        cache: the cache with the prompt. Its layers are replaced, so no other code may use it afterwards.
        longest: the most tokens that the sequence may have.
    """

    def __init__(self, model: CausalModel, cache: Cache, longest: int) -> None:
        self._model, self._cache, self._longest = model, cache, longest
        self._position = _Position(cache.get_seq_length(), model.device)
        self._capacity = 0

    def __call__(self, tokens: Tensor, position_ids: Tensor) -> Tensor:
        """Return the logits [1, 1, vocab] of one more token; the next call overwrites them.

        Args:
            tokens: the token, LongTensor [1, 1].
            position_ids: its positions, [1, 2, 1] or (GLM-130B) [1, 1].
        """
        if self._position.length >= self._capacity:
            self._grow(tokens, position_ids)
            # This step runs without a graph: kernels are compiled and tuned in it, which a capture does not allow.
            logits = self._step(tokens, position_ids, self._forward)
            self._replay = recorded_if_possible(self._forward)
            return logits
        return self._step(tokens, position_ids, self._replay)

    def _grow(self, tokens: Tensor, position_ids: Tensor) -> None:
        self._replay = self._forward  # drops the graph, and with it the memory of the smaller cache
        least = min(self._position.length + CAPACITY_STEP, self._longest)
        self._capacity = aligned(least)
        for number, layer in enumerate(self._cache.layers):  # one by one, so that only one layer is in memory twice
            self._cache.layers[number] = _FixedLayer(layer, self._capacity, self._position)
        self._tokens, self._position_ids = torch.empty_like(tokens), torch.empty_like(position_ids)
        dtype = self._cache.layers[0].keys.dtype
        self._mask = torch.full((1, 1, 1, self._capacity), torch.finfo(dtype).min, dtype=dtype, device=tokens.device)
        self._mask[..., : self._position.length] = 0

    def _step(self, tokens: Tensor, position_ids: Tensor, run: Callable[[], Tensor]) -> Tensor:
        self._tokens.copy_(tokens)
        self._position_ids.copy_(position_ids)
        self._mask[..., self._position.length] = 0
        self._position.index.fill_(self._position.length)
        logits = run()
        self._position.length += 1
        return logits

    def _forward(self) -> Tensor:
        logits: Tensor = self._model(
            self._tokens,
            attention_mask=self._mask,
            position_ids=self._position_ids,
            cache=self._cache,
            use_cache=True,
            logits_to_keep=0,
        ).logits
        return logits


def recorded_if_possible(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Return ``run`` as one CUDA graph, see :func:`recorded`; or ``run`` itself, with a warning, if that fails."""
    try:
        return recorded(run)
    except RuntimeError as error:  # a driver or a library may forbid an operation in a capture
        logger.warning("Decoding goes on without CUDA graphs: %s", str(error).partition("\n")[0])
        return run


def recorded(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Return a function that repeats ``run`` as one CUDA graph and returns the same, overwritten tensor every time."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = run()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


class _Position:
    """Index of the next token in the cache: a number for Python, and a tensor [1] on the GPU for the graph."""

    def __init__(self, length: int, device: torch.device) -> None:
        self.length = length
        self.index = torch.tensor([length], device=device)


class _FixedLayer(DynamicLayer):
    """Keys and values of fixed capacity, [1, heads, capacity, head_dim]; a step writes at ``position``."""

    def __init__(self, layer: DynamicLayer, capacity: int, position: _Position) -> None:
        super().__init__()
        # Padded with zeros, not left empty: hidden values are multiplied by 0, and 0 * NaN would be NaN.
        self.keys, self.values = (
            F.pad(states[:, :, : position.length], (0, 0, 0, capacity - position.length))
            for states in (layer.keys, layer.values)
        )
        self.dtype, self.device, self.is_initialized = self.keys.dtype, self.keys.device, True
        self._position = position

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        self.keys.index_copy_(2, self._position.index, key_states)
        self.values.index_copy_(2, self._position.index, value_states)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self._position.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.keys.shape[-2], 0


def recorded_steps(model: CausalModel, cache: Cache, longest: int) -> GraphedSteps | None:
    """Return the steps of one row as CUDA graphs, or None if :func:`can_be_graphed` is False."""
    return GraphedSteps(model, cache, longest) if can_be_graphed(model, cache) else None


register_step_maker(recorded_steps)
