"""Activations of a prompt: the model's own forward pass on the meta device, with every allocation counted.

No formula restates the model here; where its code changes, the count follows. Two things are stood in for, because the
meta device has no kernels: attention, which a fused kernel computes without a matrix of scores, and the product with
packed weights, of which there are several.
"""

import functools
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..kernels import gpu, reference
from ..kernels.packing import row_blocks
from ..model.configuration import GLMConfig
from ..model.transformers_names import cache_of
from ..quantization.linear import QuantizedLinear
from .models import from_key, to_key, with_fields
from .placement import COLUMNS, cut, cut_dimensions, meta_model

Product = Callable[[Tensor, Tensor, Tensor, int, Tensor | None], Tensor]
"""A product with a packed weight on the meta device: of (states, weight, scale, bits, bias)."""

_LAYERS = 2  # the first one's input is the embedding's output; from the second one on all are alike
_FUSED_ROWS = 16  # the Triton kernel multiplies so many rows without a float weight


def on_gpu(states: Tensor, weight: Tensor, scale: Tensor, bits: int, bias: Tensor | None) -> Tensor:
    """As :mod:`glm_model.kernels.triton_backend` allocates, which knows half and bfloat16 alone."""
    if states.dtype == torch.float32:
        return by_reference(states, weight, scale, bits, bias)
    rows = states.reshape(-1, states.shape[-1])
    if len(rows) <= _FUSED_ROWS:
        output = rows.new_empty(len(rows), len(weight))
    else:
        output = gpu.multiply_dequantized(rows, weight, scale, bits, bias, _dequantized)
    return output.reshape(*states.shape[:-1], len(weight))


def by_reference(states: Tensor, weight: Tensor, scale: Tensor, bits: int, bias: Tensor | None) -> Tensor:
    """As the reference kernel allocates, which serves every device and dtype."""
    output = _joined_blocks(states, weight, scale, bits)
    return output if bias is None else output + bias


def peak_activations(
    config: GLMConfig, dtype: torch.dtype, ranks: int, batch: int, context: int, product: Product = on_gpu
) -> int:
    """Bytes that a prompt as long as the context needs at its worst moment, besides weights and filled KV cache.

    It is the same on every GPU but for a few rows: one with a layer has all of the layer's activations.

    Args:
        config: of the model; the number of layers does not matter.
        ranks: tensor parallel ranks that share a layer.
        batch: prompts at once.
        context: tokens of a prompt.
        product: with packed weights.
    """
    shallow = with_fields(config, num_layers=min(_LAYERS, config.num_layers))
    return _peak_once(to_key(shallow), dtype, ranks, batch, context, product)


@functools.lru_cache(maxsize=256)
def _peak_once(key: str, dtype: torch.dtype, ranks: int, batch: int, context: int, product: Product) -> int:
    model = meta_model(from_key(key), dtype)
    cut(model, ranks)
    _stand_in_for_kernels(model, product, ranks)
    if ranks > 1:
        _cut_prefix(model, ranks)
    known = [*model.parameters(), *model.buffers()]
    with torch.no_grad(), _FusedAttention(), Allocations(known) as allocations:
        cache = _prefill(model, batch, context)
    kept = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    if model.model.prefix_encoder is not None:
        with torch.no_grad():
            kept.append(model.model.prefix_encoder(dtype, batch))
    return allocations.peak - sum(tensor.nbytes for tensor in kept)


class Allocations(TorchDispatchMode):
    """Counts the bytes of tensors that come to life while it is active, until they are freed.

    Attributes:
        live: bytes now.
        peak: the most there were.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._see(leaf.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


class _FusedAttention(TorchFunctionMode):
    """What flash, memory-efficient and cuDNN attention allocate: the output, and a sum per row of scores.

    A bool mask becomes one to add, in the dtype of the query, before any of them starts.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, mask = args[0], kwargs["attn_mask"]
        scratch = [torch.zeros_like(mask, dtype=query.dtype)] if mask.dtype == torch.bool else []
        scratch.append(query.new_empty(query.shape[:-1], dtype=torch.float32))
        return torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)


def _stand_in_for_kernels(model: Any, product: Product, ranks: int) -> None:
    dimensions = cut_dimensions(model) if ranks > 1 else {}
    for name, layer in model.named_modules():
        if isinstance(layer, QuantizedLinear | nn.Linear):
            # What ranks add up gets its bias in a step of its own.
            in_sum = dimensions.get(f"{name}.weight") == COLUMNS
            layer.forward = functools.partial(_linear, layer, product, in_sum)  # type: ignore[method-assign]


def _linear(layer: Any, product: Product, in_sum: bool, states: Tensor) -> Tensor:
    bias = None if in_sum else layer.bias
    if isinstance(layer, QuantizedLinear):
        output = product(states, layer.weight, layer.weight_scale, layer.bits, bias)
    else:
        output = F.linear(states, layer.weight, bias)
    return output + layer.bias if in_sum else output


def _dequantized(packed: Tensor, scale: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    return packed.new_empty(len(packed), packed.shape[1] * 8 // bits, dtype=dtype)


def _joined_blocks(states: Tensor, weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    """The kernel takes a million weights at a time: thousands of blocks. The last two, one of them whole, will do."""
    computed = list(row_blocks(len(weight), weight.shape[1] * 8 // bits))[-2:]
    parts = [states.new_empty(*states.shape[:-1], computed[0].start)] if computed[0].start else []
    parts += [reference.matmul(states, weight[block], scale[block], bits) for block in computed]
    return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]


def _cut_prefix(model: Any, ranks: int) -> None:
    """A rank uses the heads of a P-Tuning prefix that are its own; see :mod:`glm_model.parallel.styles`."""
    encoder = model.model.prefix_encoder
    if encoder is not None:
        whole = encoder.forward
        encoder.forward = lambda *arguments: whole(*arguments).chunk(ranks, dim=2)[0]


def _prefill(model: Any, batch: int, context: int) -> Any:
    """Run a prompt. On the meta device ids say nothing, so positions and mask are given, as those of a prompt are."""
    with torch.device("meta"):
        ids = torch.zeros(batch, context, dtype=torch.long)
        rows = (2,) if model.config.position_encoding_2d else ()
        positions = torch.zeros(batch, *rows, context, dtype=torch.long)
    # Made when it is asked for, and kept by nobody else: with a prefix the model goes on with a longer one.
    model.model.mask_of_pass = lambda *_: torch.zeros(batch, 1, context, context, dtype=torch.bool, device="meta")
    return cache_of(model(ids, position_ids=positions, use_cache=True, logits_to_keep=1))
