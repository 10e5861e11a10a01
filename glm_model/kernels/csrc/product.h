// Products of activations with packed INT4 or INT8 weights, the linear layers of a packed model.
//
// Work is cut into tasks of some rows of activations times 32 rows of weights. With few rows of activations each weight
// is read once, straight from the packed bytes, and memory is the limit. With many, a task opens its weights to what
// the arithmetic takes, one block of columns after the other so that they stay in the cache, and arithmetic is.
#pragma once
#include <stdlib.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "threads.h"
#include "tiles.h"

constexpr int kFewRows = 32;                // of activations: opening the weights does not pay
constexpr int kBlockRows = 96;              // of activations in a task with opened weights
constexpr int64_t kOpenBytes = 128 * 1024;  // of opened weights, which stay in the second-level cache
constexpr int64_t kSumSpans = 16;           // of products with quantized activations, summed before others are
constexpr int64_t kPanelBytes = 12 << 20;   // of reordered activations at a time

struct Product {
    const void* x;  // [rows, columns]
    Type type;      // of x, bias and out
    int64_t rows, columns;
    const uint8_t* weight;  // [outputs, columns * bits / 8]
    const void* scale;      // [outputs]
    Type scale_type;
    int64_t outputs;
    int bits;
    const void* bias;  // [outputs] or null
    void* out;         // [rows, outputs]

    int64_t row_bytes() const { return columns * bits / 8; }
    int64_t spans() const { return (columns + kSpan - 1) / kSpan; }
};

// Rows of weights, each readable to the end of its last span: those at the end of the matrix are copied, because
// what lies behind may not be ours to read. Whatever is read beyond a row meets activations of zero.
class Rows {
public:
    Rows(const Product& p, int64_t packed_span) : p_(p), stride_(p.spans() * packed_span) {
        int64_t spare = p.outputs * p.row_bytes() - stride_;
        direct_ = spare < 0 ? 0 : std::min(p.outputs, spare / p.row_bytes() + 1);
        padded_.resize((p.outputs - direct_) * stride_);
        for (int64_t r = direct_; r < p.outputs; r++)
            memcpy(&padded_[(r - direct_) * stride_], p.weight + r * p.row_bytes(), p.row_bytes());
    }
    int64_t row_bytes() const { return p_.row_bytes(); }
    const uint8_t* operator[](int64_t r) const {
        r = std::min(r, p_.outputs - 1);  // a tile may hang over; what it computes there is dropped
        return r < direct_ ? p_.weight + r * p_.row_bytes() : &padded_[(r - direct_) * stride_];
    }

private:
    const Product& p_;
    int64_t stride_, direct_;
    std::vector<uint8_t> padded_;
};

// A panel of activations in the kernel's own form.
template <class Span>
struct Activations {
    const Span* spans;     // [rows, length], rows `stride` apart
    const float* offsets;  // [rows]: what the offset of the weights adds to every product, per unit of offset
    int64_t rows, length, stride;  // in spans
};

template <class Span>
constexpr bool kQuantizes = std::is_same<Span, QuantizedSpan>::value;

inline float prepare_row(const Product& p, int64_t row, QuantizedSpan* to) {
    return quantize_row(p.x, p.type, row * p.columns, p.columns, p.bits, to);
}
inline float prepare_row(const Product& p, int64_t row, ExactSpan* to) {
    order_row(p.x, p.type, row * p.columns, p.columns, p.bits, to);
    return 0;
}

// Tiles of kRows rows of weights, the next one asked into the cache while one is worked on, with all rows of activations
// in groups of like size, at most kColumns: a small group would cost almost what a large one does.
template <class Packed, int kRows, int kColumns, class Span>
void multiply_packed(const Activations<Span>& x, const Rows& rows, int64_t first, int64_t count, float* sums) {
    const int64_t ahead = kRows > 1 ? kRows * rows.row_bytes() : 0;
    const int64_t groups = (x.rows + kColumns - 1) / kColumns;
    for (int64_t r = 0; r < count; r += kRows)
        for (int64_t s = 0; s < x.length; s += kSumSpans) {
            const uint8_t* w[kRows];
            for (int i = 0; i < kRows; i++) w[i] = rows[first + r + i] + s * Packed::kBytes;
            for (int64_t g = 0; g < groups; g++) {
                const int64_t n = x.rows * g / groups;
                const int columns = static_cast<int>(x.rows * (g + 1) / groups - n);
                tile_of<Packed, kRows, kColumns>(columns, w, g ? 0 : ahead, x.spans + n * x.stride + s, x.stride,
                                                 std::min(kSumSpans, x.length - s), sums + n * kTile + r);
            }
        }
}

// One row of activations with one row of weights after the other: memory is read strictly in order, and the CPU's own
// prefetching brings a tenth more than asking for the next tile does. Only while the activations leave room in the
// first-level cache, and while little is read at a step: a CPU that runs far ahead asks for too much at once.
template <class Packed, class Span>
bool reads_in_order(const Activations<Span>& x) {
    constexpr int64_t kRoomBytes = 16 * 1024, kStepBytes = 128;
    return kQuantizes<Span> && Packed::kBytes / kParts <= kStepBytes &&
           x.length * static_cast<int64_t>(sizeof(Span)) <= kRoomBytes;
}

template <class Packed, class Span>
void multiply_few(const Activations<Span>& x, const Rows& rows, int64_t first, int64_t count, float* sums) {
    // Several rows at a time: while one waits for memory the others go on, and what they are multiplied with is read
    // once for all, as far as registers hold the sums. Of activations four rows, which are 20 KB of 4096 columns and
    // stay in the first-level cache.
    constexpr int kRows = kRegisters == 32 ? 4 : 2;
    if (x.rows > 1)
        multiply_packed<Packed, kRows, 4>(x, rows, first, count, sums);
    else if (reads_in_order<Packed>(x))
        multiply_packed<Packed, 1, 1>(x, rows, first, count, sums);
    else
        multiply_packed<Packed, 4, 1>(x, rows, first, count, sums);
}

template <class Packed, class Open, class Span>
void multiply_many(const Activations<Span>& x, const Rows& rows, int64_t first, int64_t count, float* sums) {
    constexpr int kRows = 4, kColumns = Open::kFloats && kRegisters < 32 ? 3 : 4;
    constexpr int64_t kBlock = kOpenBytes / kTile / Open::kBytes;  // spans
    static_assert(Open::kFloats || kBlock == kSumSpans, "few rows and many are to have the same bits");
    alignas(64) uint8_t opened[kTile * kBlock * Open::kBytes];
    for (int64_t s = 0; s < x.length; s += kBlock) {
        const int64_t spans = std::min(kBlock, x.length - s);
        for (int64_t r = 0; r < count; r++)
            for (int64_t i = 0; i < spans; i++)
                Open::open(rows[first + r] + (s + i) * Packed::kBytes, opened + (r * kBlock + i) * Open::kBytes);
        for (int64_t n = 0; n < x.rows; n += kColumns) {
            const int columns = static_cast<int>(std::min<int64_t>(kColumns, x.rows - n));
            for (int64_t r = 0; r < count; r += kRows) {
                const uint8_t* w[kRows];
                for (int i = 0; i < kRows; i++)
                    w[i] = opened + std::min(r + i, count - 1) * kBlock * Open::kBytes;
                tile_of<Open, kRows, kColumns>(columns, w, 0, x.spans + n * x.stride + s, x.stride, spans,
                                               sums + n * kTile + r);
            }
        }
    }
}

// Scale, bias and rounding for a tile whose first row of activations is number `row`.
inline void finish(const Product& p, float* sums, const float* offsets, int offset, int64_t row, int64_t rows,
            int64_t first, int64_t count) {
    float scale[kTile], bias[kTile] = {};
    read_numbers(p.scale, p.scale_type, first, count, scale);
    if (p.bias) read_numbers(p.bias, p.type, first, count, bias);
    for (int64_t n = 0; n < rows; n++) {
        float* run = sums + n * kTile;
        const float excess = offset ? offset * offsets[n] : 0;
        for (int64_t r = 0; r < count; r++) run[r] = (run[r] - excess) * scale[r] + bias[r];
        write_numbers(run, count, p.out, p.type, (row + n) * p.outputs + first);
    }
}

template <class Packed, class Open, class Span>
void multiply_panel(const Product& p, const Rows& weight, const Activations<Span>& panel, int64_t row, Team& team) {
    const int offset = kQuantizes<Span> ? Packed::kOffset : 0;
    const bool few = panel.rows <= kFewRows;
    const int64_t tiles = (p.outputs + kTile - 1) / kTile;
    const int64_t blocks = (panel.rows + kBlockRows - 1) / kBlockRows;
    // All tiles with one block of activations, then the next block: the threads share what they read.
    team.run(blocks * tiles, [&](int64_t task) {
        const int64_t n = task / tiles * kBlockRows, first = task % tiles * kTile;
        const int64_t rows = std::min<int64_t>(kBlockRows, panel.rows - n);
        const int64_t count = std::min<int64_t>(kTile, p.outputs - first);
        const Activations<Span> x{panel.spans + n * panel.stride, panel.offsets + n, rows, panel.length, panel.stride};
        alignas(64) float sums[kBlockRows * kTile];
        std::fill_n(sums, rows * kTile, 0.0f);
        if (few)
            multiply_few<Packed>(x, weight, first, count, sums);
        else
            multiply_many<Packed, Open>(x, weight, first, count, sums);
        finish(p, sums, x.offsets, offset, row + n, rows, first, count);
    });
}

// Memory for the activations of this thread's products, kept from one to the next.
template <class Span>
Span* workspace(int64_t count) {
    static thread_local std::vector<Span> memory;
    if (static_cast<int64_t>(memory.size()) < count) memory.resize(count);
    return memory.data();
}

template <class Packed, class Open, class Span>
void multiply(const Product& p, Team& team) {
    const Rows weight(p, Packed::kBytes);
    // Odd, so that the same place in several rows never falls into the same few lines of the first-level cache.
    const int64_t stride = p.spans() | 1;
    const int64_t fitting = kPanelBytes / (stride * static_cast<int64_t>(sizeof(Span)));
    const int64_t panel_rows = std::min(p.rows, std::max<int64_t>(kBlockRows, fitting / kBlockRows * kBlockRows));
    Span* spans = workspace<Span>(panel_rows * stride);
    std::vector<float> offsets(panel_rows);
    for (int64_t row = 0; row < p.rows; row += panel_rows) {
        const int64_t rows = std::min(panel_rows, p.rows - row);
        team.run(rows, [&](int64_t n) { offsets[n] = prepare_row(p, row + n, spans + n * stride); });
        const Activations<Span> panel{spans, offsets.data(), rows, p.spans(), stride};
        multiply_panel<Packed, Open>(p, weight, panel, row, team);
    }
}

// Exact, of one row of activations and INT4: the sums of its parts are added up. Two rows are six of parts, and bytes are
// quickly made floats: those are as fast or faster in float32.
inline void multiply_split(const Product& p, Team& team) {
    const Rows weight(p, PackedNibbles::kBytes);
    const int64_t stride = p.spans() | 1;
    PartSpan* spans = workspace<PartSpan>(kSplit * stride);
    split_row(p.x, p.type, p.columns, spans, stride);
    const Activations<PartSpan> x{spans, nullptr, kSplit, p.spans(), stride};
    team.run((p.outputs + kTile - 1) / kTile, [&](int64_t task) {
        const int64_t first = task * kTile, count = std::min<int64_t>(kTile, p.outputs - first);
        alignas(64) float sums[kSplit * kTile] = {};
        multiply_few<PackedNibbles>(x, weight, first, count, sums);
        for (int r = 0; r < kTile; r++) sums[r] += sums[2 * kTile + r] + sums[kTile + r];
        finish(p, sums, nullptr, 0, 0, 1, first, count);
    });
}

// out = x @ (integers * scale).T + bias, with activations rounded to 8 bits or as they are.
inline void multiply(const Product& p, bool quantize, Team& team) {
    if (p.bits == 4 && !quantize && p.rows == 1) return multiply_split(p, team);
    if (p.bits == 4 && quantize) multiply<PackedNibbles, OpenIntegers<PackedNibbles>, QuantizedSpan>(p, team);
    if (p.bits == 4 && !quantize) multiply<PackedNibbles, OpenFloats<PackedNibbles>, ExactSpan>(p, team);
    if (p.bits == 8 && quantize) multiply<PackedBytes, OpenIntegers<PackedBytes>, QuantizedSpan>(p, team);
    if (p.bits == 8 && !quantize) multiply<PackedBytes, OpenFloats<PackedBytes>, ExactSpan>(p, team);
}
