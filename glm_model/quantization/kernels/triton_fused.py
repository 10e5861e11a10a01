"""Few rows of activations times a packed weight, on a GPU; the float weight exists in registers only. Needs Triton.

Reading the weight from memory once is what such a product costs at least, and with INT4 the arithmetic is hardly less:
while a multiprocessor of an H100 gets 13 bytes from memory it issues 128 instructions, 5 for each of the 26 integers.
So threads load words of 16 bytes at once and take the integers out of them in a way that costs 3 instructions; with the
multiplication and the loop it is 5 for one row, where bytes that are shifted and cast make it 8. (Counted in what ptxas
makes of it for compute capability 8.0 and 9.0.)
"""

from functools import partial
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_tuning import fastest

MOST_ROWS = 16
"""What a tile of the tensor cores holds: up to it more rows cost nothing."""


class Tile(NamedTuple):
    """How a product is cut up.

    Attributes:
        outputs: rows of the weight for one program.
        words: 32-bit words of each of them in one step of its loop.
        warps: of 32 threads.
        stages: how many steps' loads are under way at once.
    """

    outputs: int
    words: int
    warps: int
    stages: int


# Few outputs for one program: 4096, as the narrowest layer of ChatGLM-6B has, must keep over a hundred multiprocessors
# busy. Long steps: nothing is loaded ahead in this loop, so the 8 to 16 KB of a step and what the other programs on the
# multiprocessor load meanwhile have to hide the memory's latency.
_ONE_ROW = (Tile(8, 512, 4, 1), Tile(4, 512, 4, 1), Tile(8, 256, 2, 1), Tile(16, 256, 4, 1))
# The tensor cores' tile has 8 outputs for each warp; with fewer, several warps unpack the same integers. Here the next
# steps are loaded while one is multiplied, so that they can be shorter. Each column of the words is a product of its
# own, for which the tensor cores want 16 words.
_FEW_ROWS = (Tile(32, 32, 4, 4), Tile(64, 32, 4, 4), Tile(32, 64, 4, 3), Tile(64, 32, 8, 4))


def tiles(rows: int) -> tuple[Tile, ...]:
    """The tiles among which the fastest is sought."""
    return _ONE_ROW if rows == 1 else _FEW_ROWS


def takes(weight: Tensor) -> bool:
    """Whether every row of a weight is whole, aligned 32-bit words: in_features in multiples of 8 (INT4) or 4."""
    return weight.shape[1] % 4 == 0 and weight.data_ptr() % 4 == 0


def multiply(
    x: Tensor, weight: Tensor, scale: Tensor, bits: int, bias: Tensor | None, tile: Tile | None = None
) -> Tensor:
    """``x @ (integers * scale).T + bias`` with float32 sums, rounded once: [rows, out] in the dtype of ``x``.

    Args:
        x: float16 or bfloat16 [rows, in], 1 to ``MOST_ROWS`` rows.
        weight: int8 [out, in * bits / 8], contiguous; see :func:`takes`.
        scale: floating [out], contiguous.
        bits: 4 or 8.
        bias: floating [out], or None.
        tile: one of :func:`tiles`; None for the fastest.
    """
    x = x.contiguous()
    if x.data_ptr() % 16:
        x = x.clone()
    words = weight.view(torch.int32)
    out = x.new_empty(len(x), len(weight))
    bias = None if bias is None else bias.contiguous()
    run = partial(_launch, x.view(torch.int32), words, scale, bias, out, bits)
    if tile is None:
        shape = (x.device, x.dtype, bits, len(x) == 1, words.shape)
        tile = fastest(shape, tiles(len(x)), run, x.device)
    run(tile)
    return out


def _launch(
    pairs: Tensor, words: Tensor, scale: Tensor, bias: Tensor | None, out: Tensor, bits: int, tile: Tile
) -> None:
    rows, outputs = out.shape
    arguments = (pairs, words, scale, bias, out, outputs, words.shape[1])
    sizes = {"bits": bits, "tile_outputs": tile.outputs, "tile_words": tile.words}
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    grid = (triton.cdiv(outputs, tile.outputs),)
    if rows == 1:
        _one_row[grid](*arguments, **sizes, **options)
    else:
        _few_rows[grid](*arguments, rows, **sizes, **options)


@triton.jit
def _one_row(
    pairs_ptr,  # int32 [in / 2]: two activations each
    words_ptr,  # int32 [outputs, words]
    scale_ptr,
    bias_ptr,
    out_ptr,  # [outputs]
    outputs,
    words,
    bits: tl.constexpr,
    tile_outputs: tl.constexpr,
    tile_words: tl.constexpr,
):
    output = tl.program_id(0) * tile_outputs + tl.arange(0, tile_outputs)
    row_ptr = words_ptr + output.to(tl.int64) * words
    total = tl.zeros((tile_outputs, tile_words), tl.float32)
    for start in range(0, words, tile_words):
        word = start + tl.arange(0, tile_words)
        inside = word < words
        packed = tl.load(row_ptr[:, None] + word[None, :], mask=(output < outputs)[:, None] & inside[None, :], other=0)
        for pair in tl.static_range(16 // bits):
            both = tl.load(pairs_ptr + word * (16 // bits) + pair, mask=inside, other=0)
            first, second = _halves(both, out_ptr.dtype.element_ty)
            total += _integers(packed, 2 * pair, bits) * first.to(tl.float32)[None, :]
            total += _integers(packed, 2 * pair + 1, bits) * second.to(tl.float32)[None, :]
    product = _scaled(tl.sum(total, axis=1), scale_ptr, bias_ptr, output, outputs)
    tl.store(out_ptr + output, product.to(out_ptr.dtype.element_ty), mask=output < outputs)


@triton.jit
def _few_rows(
    pairs_ptr,  # int32 [rows, in / 2]: two activations each
    words_ptr,  # int32 [outputs, words]
    scale_ptr,
    bias_ptr,
    out_ptr,  # [rows, outputs]
    outputs,
    words,
    rows,
    bits: tl.constexpr,
    tile_outputs: tl.constexpr,
    tile_words: tl.constexpr,
):
    dtype: tl.constexpr = out_ptr.dtype.element_ty
    output = tl.program_id(0) * tile_outputs + tl.arange(0, tile_outputs)
    row = tl.arange(0, 16)
    row_ptr = words_ptr + output.to(tl.int64) * words
    x_ptr = pairs_ptr + row * words * (16 // bits)
    total = tl.zeros((16, tile_outputs), tl.float32)
    for start in range(0, words, tile_words):
        word = start + tl.arange(0, tile_words)
        inside = word < words
        packed = tl.load(row_ptr[None, :] + word[:, None], mask=(output < outputs)[None, :] & inside[:, None], other=0)
        for pair in tl.static_range(16 // bits):
            both_ptr = x_ptr[:, None] + (word * (16 // bits) + pair)[None, :]
            both = tl.load(both_ptr, mask=(row < rows)[:, None] & inside[None, :], other=0)
            first, second = _halves(both, dtype)
            total = tl.dot(first, _integers(packed, 2 * pair, bits).to(dtype), total)
            total = tl.dot(second, _integers(packed, 2 * pair + 1, bits).to(dtype), total)
    product = _scaled(total, scale_ptr, bias_ptr, output[None, :], outputs)
    out_ptrs = out_ptr + row[:, None] * outputs + output[None, :]
    tl.store(out_ptrs, product.to(dtype), mask=(row < rows)[:, None] & (output < outputs)[None, :])


@triton.jit
def _integers(words, column: tl.constexpr, bits: tl.constexpr):
    """Of each word the integer in one of the columns that it holds, as float32.

    Its bits in the mantissa of 2^23 make the float 2^23 + integer, without a conversion, which would be slower. With
    the sign bit turned over it is unsigned, offset by half its range; both offsets are subtracted, exactly. It stays
    where it is in the word if the mantissa has that place, and so makes 2^23 + integer * 2^place.
    """
    shift: tl.constexpr = 8 * column if bits == 8 else 8 * (column // 2) + 4 * (1 - column % 2)
    place: tl.constexpr = shift - 16 if shift + bits > 23 else shift
    mask: tl.constexpr = ((1 << bits) - 1) << place
    magic: tl.constexpr = 0x4B000000 | (1 << (place + bits - 1))
    unit: tl.constexpr = 1.0 / (1 << place)
    offset: tl.constexpr = (8388608.0 + (1 << (place + bits - 1))) / (1 << place)
    return (((words >> (shift - place)) & mask) ^ magic).to(tl.float32, bitcast=True) * unit - offset


@triton.jit
def _halves(pairs, dtype: tl.constexpr):
    """The two 16-bit floats of each 32-bit word; that of the lower address first."""
    return pairs.to(tl.int16).to(dtype, bitcast=True), (pairs >> 16).to(tl.int16).to(dtype, bitcast=True)


@triton.jit
def _scaled(total, scale_ptr, bias_ptr, output, outputs):
    """Sums of integers times activations to what the outputs are, float32."""
    product = total * tl.load(scale_ptr + output, mask=output < outputs, other=0).to(tl.float32)
    if bias_ptr is not None:
        product += tl.load(bias_ptr + output, mask=output < outputs, other=0).to(tl.float32)
    return product
