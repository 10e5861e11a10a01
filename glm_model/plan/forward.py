"""Counts the bytes of activations of a prompt, by running the model's own forward pass on the meta device.

Every allocation is counted. No formula repeats the model here, so the count follows changes of its code. Two operations
are replaced, because the meta device has no kernels for them: attention, which a fused kernel computes without a matrix
of scores, and the product with packed weights, for which there are several kernels.
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
"""A function (states, weight, scale, bits, bias) that allocates on the meta device what a product with a packed weight
allocates, and returns its output."""

_LAYERS = 2  # The first layer's input is the embedding's output; all later layers allocate alike.
_FUSED_ROWS = 16  # The Triton kernel multiplies up to this many rows without making a float weight.


def on_gpu(states: Tensor, weight: Tensor, scale: Tensor, bits: int, bias: Tensor | None) -> Tensor:
    """Return the output of a packed product, allocated as :mod:`glm_model.kernels.triton_backend` allocates.

    That kernel takes float16 and bfloat16 only; float32 states are multiplied by the reference kernel.
    """
    if states.dtype == torch.float32:
        return by_reference(states, weight, scale, bits, bias)
    rows = states.reshape(-1, states.shape[-1])
    if len(rows) <= _FUSED_ROWS:
        output = rows.new_empty(len(rows), len(weight))
    else:
        output = gpu.multiply_dequantized(rows, weight, scale, bits, bias, _dequantized)
    return output.reshape(*states.shape[:-1], len(weight))


def by_reference(states: Tensor, weight: Tensor, scale: Tensor, bits: int, bias: Tensor | None) -> Tensor:
    """Return the output of a packed product, allocated as the reference kernel allocates on any device and dtype."""
    output = _joined_blocks(states, weight, scale, bits)
    return output if bias is None else output + bias


def peak_activations(
    config: GLMConfig, dtype: torch.dtype, ranks: int, batch: int, context: int, product: Product = on_gpu
) -> int:
    """Return the peak bytes of a prompt's forward pass, besides the weights and the filled KV cache.

    The peak is the same on every GPU but for a few rows: a GPU with any layer holds all activations of that layer.

    Args:
        config: the model's configuration; the number of layers does not matter.
        dtype: dtype of the activations.
        ranks: tensor parallel ranks that share a layer.
        batch: prompts at once.
        context: tokens of a prompt.
        product: allocates as a kernel for packed weights does.
    """
    shallow = with_fields(config, num_layers=min(_LAYERS, config.num_layers))
    return _peak_once(to_key(shallow), dtype, ranks, batch, context, product)


@functools.lru_cache(maxsize=256)
def _peak_once(key: str, dtype: torch.dtype, ranks: int, batch: int, context: int, product: Product) -> int:
    model = meta_model(from_key(key), dtype)
    cut(model, ranks)
    _replace_linear_layers(model, product, ranks)
    if ranks > 1:
        _cut_prefix(model, ranks)
    known = [*model.parameters(), *model.buffers()]
    with torch.no_grad(), _FusedAttention(), Allocations(known) as allocations:
        cache = _prefill(model, batch, context)
    kept = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    if (encoder := model.model.prefix) is not None:
        with torch.no_grad():
            kept.append(encoder(dtype, batch))
    return allocations.peak - sum(tensor.nbytes for tensor in kept)


class Allocations(TorchDispatchMode):
    """A mode that counts the bytes of all storages allocated while it is active, until they are freed.

    Args:
        known: tensors whose storages are not counted.

    Attributes:
        live: bytes allocated now.
        peak: the largest value of ``live`` so far.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


class _FusedAttention(TorchFunctionMode):
    """A mode in which attention allocates what flash, memory-efficient and cuDNN attention allocate.

    These allocate the output and one float32 per row of scores. PyTorch first turns a bool mask into a mask to add, in
    the dtype of the query.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, mask = args[0], kwargs["attn_mask"]
        scratch = [torch.zeros_like(mask, dtype=query.dtype)] if mask.dtype == torch.bool else []
        scratch.append(query.new_empty(query.shape[:-1], dtype=torch.float32))
        return torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)


def _replace_linear_layers(model: Any, product: Product, ranks: int) -> None:
    """Make the linear layers of a model, packed ones with ``product``, allocate as one of ``ranks`` ranks does."""
    dimensions = cut_dimensions(model) if ranks > 1 else {}
    for name, layer in model.named_modules():
        if isinstance(layer, QuantizedLinear | nn.Linear):
            # Ranks that hold columns add up their outputs first, and add the bias in a separate step.
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
    """Return what the reference kernel returns, its blocks joined; only the last two blocks are computed.

    The kernel multiplies a million weights at a time, so there can be thousands of blocks. The last two include a full
    one, which is enough to reach the peak.
    """
    computed = list(row_blocks(len(weight), weight.shape[1] * 8 // bits))[-2:]
    parts = [states.new_empty(*states.shape[:-1], computed[0].start)] if computed[0].start else []
    parts += [reference.matmul(states, weight[block], scale[block], bits) for block in computed]
    return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]


def _cut_prefix(model: Any, ranks: int) -> None:
    """Make the prefix encoder return the first rank's heads of a P-Tuning prefix; see :mod:`glm_model.parallel.styles`.

    Do nothing for a model without a prefix encoder.
    """
    encoder = model.model.prefix
    if encoder is not None:
        whole = encoder.forward
        encoder.forward = lambda *arguments: whole(*arguments).chunk(ranks, dim=2)[0]


def _prefill(model: Any, batch: int, context: int) -> Any:
    """Run a prompt and return its KV cache.

    The ids have no values on the meta device, so positions and mask cannot follow from them and are given.
    """
    with torch.device("meta"):
        ids = torch.zeros(batch, context, dtype=torch.long)
        rows = (2,) if model.config.position_encoding_2d else ()
        positions = torch.zeros(batch, *rows, context, dtype=torch.long)
    # The mask is made on each call and has no other reference, so that it is freed when a prefix replaces it by a
    # longer one, as in a real pass.
    model.model.mask_of_pass = lambda *_: torch.zeros(batch, 1, context, context, dtype=torch.bool, device="meta")
    return cache_of(model(ids, position_ids=positions, use_cache=True, logits_to_keep=1))
