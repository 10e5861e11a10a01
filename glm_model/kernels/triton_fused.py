"""Few rows of activations times a packed weight, on a GPU; the float weight exists in registers only. Needs Triton.

Reading the weight from memory once is what such a product costs at least, and with INT4 the arithmetic is hardly less:
while a multiprocessor of an H100 gets 13 bytes from memory it issues 128 instructions, 5 for each of the 26 integers.
So integers are not converted but put into floats: bits in the mantissa of a power of two are that power plus an
integer. With loop and activations that makes 3 instructions, for one row and for the several that tensor cores take.
(Counted in what ptxas makes of it for compute capability 9.0.)

The bits of those powers are arguments of the kernels. As constants, ``word & mask ^ bits`` would be two instructions:
one takes a single constant.
"""

from functools import partial
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_tuning import fastest

MOST_ROWS = 64
"""For as many rows the weight is unpacked in registers; for more it is dequantized into memory first."""


class Tile(NamedTuple):
    """How a product is cut up.

    Attributes:
        outputs: rows of the weight for one program.
        words: 32-bit words of each of them in one step of its loop.
        warps: of 32 threads.
        stages: how many steps' loads are under way at once; two for one row.
        parts: into how many the columns are divided, each for programs of its own; another kernel adds them up.
    """

    outputs: int
    words: int
    warps: int
    stages: int
    parts: int = 1


# The fastest on an H200, for one layer of ChatGLM-6B or another. Few outputs for one program: 4096, as the narrowest
# has, must keep over a hundred multiprocessors busy.
_ONE_ROW = (Tile(16, 128, 4, 2), Tile(16, 64, 2, 2), Tile(16, 256, 8, 2))
# The tensor cores of a Hopper GPU take 64 outputs at once, so it takes parts to keep all busy. The first tile does with
# the shared memory of any GPU.
_SEVERAL_ROWS = (Tile(64, 16, 4, 1), Tile(64, 16, 4, 4), Tile(64, 16, 4, 4, 4), Tile(64, 32, 4, 3, 4))


def tiles(rows: int) -> tuple[Tile, ...]:
    """Return the tiles among which the fastest is sought."""
    return _ONE_ROW if rows == 1 else _SEVERAL_ROWS


def takes(weight: Tensor) -> bool:
    """Return whether each row of a weight is whole, aligned 32-bit words: in_features in multiples of 8 (INT4) or 4."""
    return weight.shape[1] % 4 == 0 and weight.data_ptr() % 4 == 0


def multiply(
    x: Tensor, weight: Tensor, scale: Tensor, bits: int, bias: Tensor | None, tile: Tile | None = None
) -> Tensor:
    """Return ``x @ (integers * scale).T + bias`` with float32 sums, rounded once: [rows, out] in the dtype of ``x``.

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
    run = partial(_launch, x, words, scale, bias, out, bits)
    if tile is None:
        shape = (x.device, x.dtype, bits, _tile_rows(len(x)), words.shape)
        tile = fastest(shape, tiles(len(x)), run, x.device)
    run(tile)
    return out


def _tile_rows(rows: int) -> int:
    """Return the rows in a tile of activations: 1, or for the tensor cores a power of two, 16 at least."""
    return 1 if rows == 1 else max(16, triton.next_power_of_2(rows))


def _launch(x: Tensor, words: Tensor, scale: Tensor, bias: Tensor | None, out: Tensor, bits: int, tile: Tile) -> None:
    sizes = {"bits": bits, "tile_outputs": tile.outputs, "tile_words": tile.words}
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    grid = (triton.cdiv(len(words), tile.outputs), tile.parts)
    if len(out) == 1:
        operands = (x.view(torch.int32), words, scale, bias, out, *words.shape, *_FLOAT_BITS[bits])
        _one_row[grid](*operands, **sizes, **options)
    else:
        sums = out if tile.parts == 1 else out.new_empty(tile.parts, *out.shape, dtype=torch.float32)
        powers = _HALF_BITS[bits] if x.dtype == torch.float16 else _FLOAT_BITS[bits]
        several = (x, words, scale, bias, sums, *words.shape, len(out), *powers)
        _several_rows[grid](*several, parts=tile.parts, tile_rows=_tile_rows(len(out)), **sizes, **options)
        if tile.parts > 1:
            grid = (triton.cdiv(len(words), _ADDED), len(out))
            _add_up[grid](sums, scale, bias, out, len(words), len(out), parts=tile.parts, tile_outputs=_ADDED)


# ---- one row

# A byte at bits 15 to 22, the highest of the mantissa. What is 2^4 (1 + bits / 2^23) with the high nibble and
# 2^8 (1 + bits / 2^23) with the low one or the whole byte is that power plus an unsigned integer; with its highest bit
# turned over that is the signed one plus half the range.
_FLOAT_BITS = {4: (0x41C00000, 0x43840000), 8: (0x43C00000, 0x43C00000)}


@triton.jit
def _one_row(
    pairs_ptr,  # int32 [in / 2]: two activations each
    words_ptr,  # int32 [outputs, words]
    scale_ptr,
    bias_ptr,
    out_ptr,  # [outputs]
    outputs,
    words,
    first_bits,
    second_bits,
    bits: tl.constexpr,
    tile_outputs: tl.constexpr,
    tile_words: tl.constexpr,
):
    # What the floats are larger by than the integers is added up apart and subtracted once: that costs less of float32
    # than it has more than the result.
    first_offset: tl.constexpr = 24.0 if bits == 4 else 384.0
    second_offset: tl.constexpr = 264.0 if bits == 4 else 384.0
    output = tl.program_id(0) * tile_outputs + tl.arange(0, tile_outputs)
    word = tl.arange(0, tile_words)
    row_ptr = words_ptr + output.to(tl.int64) * words
    total = tl.zeros((tile_outputs, tile_words), tl.float32)
    offset = tl.zeros((tile_words,), tl.float32)
    coming = _tile_of(row_ptr, word, output < outputs, words)
    for start in range(0, words, tile_words):
        packed = coming  # the next ones are under way while these are worked on
        coming = _tile_of(row_ptr, start + tile_words + word, output < outputs, words)
        for pair in tl.static_range(16 // bits):
            pair_ptrs = pairs_ptr + (start + word) * (16 // bits) + pair
            first, second = _halves(tl.load(pair_ptrs, mask=start + word < words, other=0), out_ptr.dtype.element_ty)
            first, second = first.to(tl.float32), second.to(tl.float32)
            offset += first_offset * first + second_offset * second
            larger_first, larger_second = _float_pair(packed, pair, first_bits, second_bits, bits)
            total += larger_first * first[None, :]
            total += larger_second * second[None, :]
    product = _scaled(tl.sum(total - offset[None, :], axis=1), scale_ptr, bias_ptr, output, outputs)
    tl.store(out_ptr + output, product.to(out_ptr.dtype.element_ty), mask=output < outputs)


@triton.jit
def _float_pair(words, pair: tl.constexpr, first_bits, second_bits, bits: tl.constexpr):
    """Return of each word the integers of two columns, float32, larger by 24 and 264 (4 bits; 8 bits: by 384)."""
    if bits == 4:
        byte = _byte_at_15(words, pair)
        first, second = byte & 0x00780000, byte & 0x00078000
    else:
        first, second = _byte_at_15(words, 2 * pair) & 0x007F8000, _byte_at_15(words, 2 * pair + 1) & 0x007F8000
    return (first ^ first_bits).to(tl.float32, bitcast=True), (second ^ second_bits).to(tl.float32, bitcast=True)


@triton.jit
def _byte_at_15(words, byte: tl.constexpr):
    """Return words moved so that one of their bytes, counted from the lowest, is at bits 15 to 22."""
    return words << (15 - 8 * byte) if byte < 2 else words >> (8 * byte - 15)


# ---- several rows

# The same for two integers at once, in the lowest bits of two halves: 2^10 plus 4 or 8 bits, or plus 16 times 4 bits.
_HALF_BITS = {4: (0x64086408, 0x64806480), 8: (0x64806480, 0x64806480)}


@triton.jit
def _several_rows(
    x_ptr,  # [rows, in]
    words_ptr,  # int32 [outputs, words]
    scale_ptr,
    bias_ptr,
    out_ptr,  # [rows, outputs]; of several parts float32 [parts, rows, outputs]
    outputs,
    words,
    rows,
    first_bits,
    second_bits,
    bits: tl.constexpr,
    parts: tl.constexpr,
    tile_outputs: tl.constexpr,
    tile_words: tl.constexpr,
    tile_rows: tl.constexpr,
):
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    columns = words * (32 // bits)
    output = tl.program_id(0) * tile_outputs + tl.arange(0, tile_outputs)
    row = tl.arange(0, tile_rows)
    row_ptr = words_ptr + output.to(tl.int64) * words
    total = tl.zeros((tile_outputs, tile_rows), tl.float32)
    steps = tl.cdiv(tl.cdiv(words, tile_words), parts)
    first_step = tl.program_id(1) * steps
    for step in range(first_step, first_step + steps):
        packed = _tile_of(row_ptr, step * tile_words + tl.arange(0, tile_words), output < outputs, words)
        column = step * tile_words * (32 // bits) + tl.arange(0, tile_words * (32 // bits))
        x_ptrs = x_ptr + row[None, :] * columns + column[:, None]
        x = tl.load(x_ptrs, mask=(row < rows)[None, :] & (column < columns)[:, None], other=0)
        if dtype == tl.float16:
            integers = _to_half(packed, first_bits, second_bits, bits)
        else:
            integers = _to_bfloat16(packed, first_bits, second_bits, bits)
        total = tl.dot(integers, x, total)
    if parts == 1:
        total = _scaled(total, scale_ptr, bias_ptr, output[:, None], outputs)
    out_ptrs = out_ptr + (tl.program_id(1) * rows + row)[None, :] * outputs + output[:, None]
    tl.store(out_ptrs, total.to(out_ptr.dtype.element_ty), mask=(row < rows)[None, :] & (output < outputs)[:, None])


_ADDED = 512  # outputs of one program


@triton.jit
def _add_up(
    partial_ptr,  # float32 [parts, rows, outputs]
    scale_ptr,
    bias_ptr,
    out_ptr,  # [rows, outputs]
    outputs,
    rows,
    parts: tl.constexpr,
    tile_outputs: tl.constexpr,
):
    output = tl.program_id(0) * tile_outputs + tl.arange(0, tile_outputs)
    row = tl.program_id(1)
    total = tl.zeros((tile_outputs,), tl.float32)
    for part in tl.static_range(parts):
        total += tl.load(partial_ptr + (part * rows + row) * outputs + output, mask=output < outputs, other=0)
    product = _scaled(total, scale_ptr, bias_ptr, output, outputs)
    tl.store(out_ptr + row * outputs + output, product.to(out_ptr.dtype.element_ty), mask=output < outputs)


@triton.jit
def _to_half(words, first_bits, second_bits, bits: tl.constexpr):
    """Return the integers of all columns, float16 [outputs, columns], from [outputs, words].

    Of 4 bits the even column is the high nibble of its byte; the halves of a word are four columns apart.
    """
    if bits == 4:
        column_1, column_5 = _halves((words & 0x000F000F) ^ first_bits, tl.float16)
        column_0, column_4 = _halves((words & 0x00F000F0) ^ second_bits, tl.float16)
        column_3, column_7 = _halves(((words >> 8) & 0x000F000F) ^ first_bits, tl.float16)
        column_2, column_6 = _halves(((words >> 8) & 0x00F000F0) ^ second_bits, tl.float16)
        even = tl.join(tl.join(column_0, column_4), tl.join(column_2, column_6)) * 0.0625 - 72.0
        odd = tl.join(tl.join(column_1, column_5), tl.join(column_3, column_7)) - 1032.0
    else:
        column_0, column_2 = _halves((words & 0x00FF00FF) ^ first_bits, tl.float16)
        column_1, column_3 = _halves(((words >> 8) & 0x00FF00FF) ^ second_bits, tl.float16)
        even, odd = tl.join(column_0, column_2) - 1152.0, tl.join(column_1, column_3) - 1152.0
    return _in_order(even, odd, words, bits)


@triton.jit
def _to_bfloat16(words, first_bits, second_bits, bits: tl.constexpr):
    """Return the same in bfloat16, whose mantissa is too short for two integers at once."""
    column_0, column_1 = _float_pair(words, 0, first_bits, second_bits, bits)
    column_2, column_3 = _float_pair(words, 1, first_bits, second_bits, bits)
    if bits == 4:
        column_4, column_5 = _float_pair(words, 2, first_bits, second_bits, bits)
        column_6, column_7 = _float_pair(words, 3, first_bits, second_bits, bits)
        even = tl.join(tl.join(column_0, column_4), tl.join(column_2, column_6)) - 24.0
        odd = tl.join(tl.join(column_1, column_5), tl.join(column_3, column_7)) - 264.0
    else:
        even, odd = tl.join(column_0, column_2) - 384.0, tl.join(column_1, column_3) - 384.0
    return _in_order(even.to(tl.bfloat16), odd.to(tl.bfloat16), words, bits)


@triton.jit
def _in_order(even, odd, words, bits: tl.constexpr):
    """Return [outputs, columns] from each word's even and odd ones, [outputs, words, 2 (of the higher half), ...]."""
    return tl.reshape(tl.join(even, odd), (words.shape[0], words.shape[1] * (32 // bits)))


# ---- both


@triton.jit
def _tile_of(row_ptr, word, is_output, words):
    """Return words [outputs, words], 0 beyond the end."""
    return tl.load(row_ptr[:, None] + word[None, :], mask=is_output[:, None] & (word < words)[None, :], other=0)


@triton.jit
def _halves(pairs, dtype: tl.constexpr):
    """Return the two 16-bit floats of each 32-bit word; that of the lower address first."""
    return pairs.to(tl.int16).to(dtype, bitcast=True), (pairs >> 16).to(tl.int16).to(dtype, bitcast=True)


@triton.jit
def _scaled(total, scale_ptr, bias_ptr, output, outputs):
    """Return outputs, float32, from the sums of integers times activations."""
    product = total * tl.load(scale_ptr + output, mask=output < outputs, other=0).to(tl.float32)
    if bias_ptr is not None:
        product += tl.load(bias_ptr + output, mask=output < outputs, other=0).to(tl.float32)
    return product
