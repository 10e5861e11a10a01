// The innermost loops: R rows of weights times N rows of activations, over spans of 256 columns.
//
// A weight type says how a vector of weights is got from memory: straight from the packed bytes of the file, which is
// right when the memory is the limit, or from rows that were opened once for many rows of activations.
#pragma once
#include "activations.h"

#if defined(__clang__)
#define GLM_UNROLL _Pragma("clang loop unroll(full)")
#else
#define GLM_UNROLL _Pragma("GCC unroll 8")
#endif

constexpr int kTile = 32;                           // rows of weights in a tile; the stride of a tile's sums
constexpr int kParts = kGroups / kLanes;            // vectors of a chunk of quantized activations
constexpr int kSteps = kSpan / kLanes / 8;          // eight vectors of exact activations each
constexpr int kPartBytes = 4 * kLanes;

// ---- Weights for quantized activations: the four vectors that one part of a span is multiplied with.

struct PackedNibbles {
    static constexpr int kBytes = kSpan / 2, kOffset = kNibbleOffset;
    static void load(const uint8_t* span, int part, Bytes w[4]) {
        for (int c = 0; c < 2; c++) split_nibbles(load_bytes(span + c * kChunk + part * kPartBytes), w[c], w[2 + c]);
    }
    static Ints dot(const Bytes w[4], const Bytes x[4]) { return dot_nibbles(w, x); }
    static Floats floats(const uint8_t* span, int step, int k) {
        return nibble_floats(load_bytes(span + step * kPartBytes), k);
    }
};

struct PackedBytes {
    static constexpr int kBytes = kSpan, kOffset = kByteOffset;
    static void load(const uint8_t* span, int part, Bytes w[4]) {
        for (int c = 0; c < 4; c++) w[c] = offset_bytes(load_bytes(span + c * kChunk + part * kPartBytes));
    }
    static Ints dot(const Bytes w[4], const Bytes x[4]) { return dot_bytes(w, x); }
    static Floats floats(const uint8_t* span, int step, int k) { return byte_floats(span + (8 * step + k) * kLanes); }
};

template <class Packed>
struct OpenIntegers {
    static constexpr bool kFloats = false;
    static constexpr int kBytes = kSpan;
    static void load(const uint8_t* span, int part, Bytes w[4]) {
        for (int c = 0; c < 4; c++) w[c] = load_bytes(span + c * kChunk + part * kPartBytes);
    }
    static Ints dot(const Bytes w[4], const Bytes x[4]) { return Packed::dot(w, x); }
    static void open(const uint8_t* packed, uint8_t* span) {
        for (int part = 0; part < kParts; part++) {
            Bytes w[4];
            Packed::load(packed, part, w);
            for (int c = 0; c < 4; c++) store_bytes(span + c * kChunk + part * kPartBytes, w[c]);
        }
    }
};

template <class Packed>
struct OpenFloats {
    static constexpr bool kFloats = true;
    static constexpr int kBytes = kSpan * sizeof(float);
    static Floats floats(const uint8_t* span, int step, int k) {
        return load(reinterpret_cast<const float*>(span) + (8 * step + k) * kLanes);
    }
    static void open(const uint8_t* packed, uint8_t* span) {
        for (int step = 0; step < kSteps; step++)
            GLM_UNROLL for (int k = 0; k < 8; k++)
                store(reinterpret_cast<float*>(span) + (8 * step + k) * kLanes, Packed::floats(packed, step, k));
    }
};

// ---- Tiles. sums[n * kTile + r] grows by the product of activations n and weights r.

// Packed rows are read once, from main memory, several at a time: too irregular for the CPU to see what comes next.
// While a tile is worked on, what lies `ahead` bytes further, the next tile, is asked into the second-level cache.
template <int kBytes>
inline void prefetch(const uint8_t* from, int64_t ahead) {
    for (int i = 0; ahead && i < kBytes; i += 64) __builtin_prefetch(from + ahead + i, 0, 2);
}

// Sums over the lanes, with short rows a good part of all work: cheapest by four vectors. All are added up in the same
// order, those left over together with zeros, so that a sum has the same bits in a tile of any shape.
template <int R, int N>
inline void add_up(const Floats (&acc)[R][N], float* sums) {
    constexpr int kByFour = (R * N + 3) / 4 * 4;
    float totals[kByFour] = {};
    auto of = [&](int i) { return i < R * N ? acc[i % R][i / R] : zero(); };
    GLM_UNROLL for (int i = 0; i < kByFour; i += 4) add_totals(of(i), of(i + 1), of(i + 2), of(i + 3), totals + i);
    for (int i = 0; i < R * N; i++) sums[i / R * kTile + i % R] += totals[i];
}

inline Ints corrected(Ints dot, const QuantizedSpan&, int) { return dot; }
inline Ints corrected(Ints dot, const PartSpan& span, int part) {
    return subtract(dot, load_ints(span.excess + part * kLanes));
}

// Span: QuantizedSpan or PartSpan.
template <class Weights, int R, int N, class Span>
void tile(const uint8_t* const* w, int64_t ahead, const Span* x, int64_t x_stride, int64_t spans, float* sums) {
    Floats acc[R][N];
    for (int r = 0; r < R; r++)
        for (int n = 0; n < N; n++) acc[r][n] = zero();
    for (int64_t s = 0; s < spans; s++) {
        GLM_UNROLL for (int r = 0; r < R; r++) prefetch<Weights::kBytes>(w[r] + s * Weights::kBytes, ahead);
        for (int part = 0; part < kParts; part++) {
            Floats scales[N];
            GLM_UNROLL for (int n = 0; n < N; n++) scales[n] = load(x[n * x_stride + s].scales + part * kLanes);
            // Activations come from the first-level cache again for each row: registers for both there are not.
            GLM_UNROLL for (int r = 0; r < R; r++) {
                Bytes wv[4];
                Weights::load(w[r] + s * Weights::kBytes, part, wv);
                GLM_UNROLL for (int n = 0; n < N; n++) {
                    const void* values = x[n * x_stride + s].values + part * kPartBytes;
                    Bytes xv[4];
                    GLM_UNROLL for (int c = 0; c < 4; c++) xv[c] = load_bytes(static_cast<const uint8_t*>(values) + c * kChunk);
                    const Ints dot = corrected(Weights::dot(wv, xv), x[n * x_stride + s], part);
                    acc[r][n] = multiply_add(to_floats(dot), scales[n], acc[r][n]);
                }
            }
        }
    }
    add_up<R, N>(acc, sums);
}

template <class Weights, int R, int N>
void tile(const uint8_t* const* w, int64_t ahead, const ExactSpan* x, int64_t x_stride, int64_t spans, float* sums) {
    // Additions wait for each other: eight independent chains keep both multipliers busy.
    constexpr int kChains = R * N >= 8 ? 1 : R * N >= 4 ? 2 : 4;
    Floats acc[kChains][R][N];
    for (int c = 0; c < kChains; c++)
        for (int r = 0; r < R; r++)
            for (int n = 0; n < N; n++) acc[c][r][n] = zero();
    for (int64_t s = 0; s < spans; s++) {
        for (int r = 0; r < R; r++) prefetch<Weights::kBytes>(w[r] + s * Weights::kBytes, ahead);
        for (int step = 0; step < kSteps; step++) {
            GLM_UNROLL for (int k = 0; k < 8; k++) {
                Floats xv[N];
                GLM_UNROLL for (int n = 0; n < N; n++) xv[n] = load(x[n * x_stride + s].values + (8 * step + k) * kLanes);
                GLM_UNROLL for (int r = 0; r < R; r++) {
                    Floats wv = Weights::floats(w[r] + s * Weights::kBytes, step, k);
                    GLM_UNROLL for (int n = 0; n < N; n++)
                        acc[k % kChains][r][n] = multiply_add(wv, xv[n], acc[k % kChains][r][n]);
                }
            }
        }
    }
    for (int c = 0; c < kChains; c++) add_up<R, N>(acc[c], sums);
}

// As above with the number of activation rows, 1..N, known only at run time.
template <class Weights, int R, int N, class Span>
void tile_of(int n, const uint8_t* const* w, int64_t ahead, const Span* x, int64_t x_stride, int64_t spans,
             float* sums) {
    if constexpr (N > 1)
        if (n < N) return tile_of<Weights, R, N - 1>(n, w, ahead, x, x_stride, spans, sums);
    tile<Weights, R, N>(w, ahead, x, x_stride, spans, sums);
}
