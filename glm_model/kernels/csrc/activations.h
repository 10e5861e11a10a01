// Activations in the order in which the packed weights hold their columns.
//
// Columns are worked on in spans of 256; a row is padded with zeros to whole spans. A 32-bit word of packed INT4 holds
// eight neighbouring columns, one of INT8 four, and a vector instruction sums within such words ("lanes"). So the
// group of columns that shares a scale is chosen as the 16 columns that meet in one lane over a span: finer than the
// usual blocks of 32 or 128, which keeps a column of outliers from coarsening many others, and free, because scales are
// applied lane by lane. The layout is the same for every instruction set, and so is the result up to float summation.
#pragma once
#include <math.h>
#include <stdint.h>

#include "numbers.h"
#include "simd.h"

constexpr int kSpan = 256;
constexpr int kGroups = 16;               // lanes of a span, each with its scale
constexpr int kChunk = kSpan / 4;         // four bytes for each group
constexpr float kLargest = 127;

// A span of quantized activations: four chunks of 64 bytes, then a scale for each group. Byte 4 j + i of a chunk
// belongs to group j. INT8: the columns in order. INT4: the even columns (high nibbles of the weight), then the odd.
struct alignas(64) QuantizedSpan {
    int8_t values[kSpan];
    float scales[kGroups];
};

// Exact activations of one row, with INT4: each number is a sum of three that are quantized as above, each of what those
// before it leave, down to the last bit of a float. So integers are multiplied here too, and memory stays the limit. The
// offset of the weights is taken off the integers of each group, so that it costs the sums no precision.
constexpr int kSplit = 3;
struct alignas(64) PartSpan : QuantizedSpan {
    int32_t excess[kGroups];
};

// Exact activations else: the columns in the order in which `tiles.h` unpacks weights.
struct alignas(64) ExactSpan {
    float values[kSpan];
};

// One group, which is 4 floats in each of 4 chunks of `ordered`. Returns scale * sum of the integers.
inline float quantize_group(const float* ordered, int group, QuantizedSpan& span) {
    uint32_t peak_bits = 0;  // compared as integers: NaN is then the largest and is not lost
    for (int i = 0; i < 16; i++) {
        uint32_t bits;
        memcpy(&bits, ordered + i / 4 * kChunk + 4 * group + i % 4, 4);
        bits &= 0x7fffffff;
        peak_bits = bits > peak_bits ? bits : peak_bits;
    }
    float peak;
    memcpy(&peak, &peak_bits, 4);
    span.scales[group] = peak / kLargest;
    int sum = 0;
    for (int i = 0; i < 16; i++) {
        int at = i / 4 * kChunk + 4 * group + i % 4;
        // Rounding what is not finite is undefined; the scale carries it to every result.
        int value = peak > 0 && isfinite(peak) ? static_cast<int>(nearbyintf(ordered[at] / peak * kLargest)) : 0;
        span.values[at] = static_cast<int8_t>(value);
        sum += value;
    }
    return span.scales[group] * sum;
}

#if defined(__AVX2__)
// Two neighbouring groups at once, as the function above but for the last bit of a quotient, and for numbers under
// 4e-37, whose inverse is infinite: what they become is as small.
inline __m256 quantize_two_groups(const float* ordered, int group, QuantizedSpan& span) {
    __m256 chunk[4];
    __m256i peak_bits = _mm256_setzero_si256();
    for (int c = 0; c < 4; c++) {
        chunk[c] = _mm256_loadu_ps(ordered + c * kChunk + 4 * group);
        __m256i magnitude = _mm256_and_si256(_mm256_castps_si256(chunk[c]), _mm256_set1_epi32(0x7fffffff));
        peak_bits = _mm256_max_epi32(peak_bits, magnitude);
    }
    peak_bits = _mm256_max_epi32(peak_bits, _mm256_shuffle_epi32(peak_bits, _MM_SHUFFLE(1, 0, 3, 2)));
    peak_bits = _mm256_max_epi32(peak_bits, _mm256_shuffle_epi32(peak_bits, _MM_SHUFFLE(2, 3, 0, 1)));
    __m256 peak = _mm256_castsi256_ps(peak_bits);
    __m256 scale = _mm256_div_ps(peak, _mm256_set1_ps(kLargest));
    __m256 positive = _mm256_cmp_ps(peak, _mm256_setzero_ps(), _CMP_GT_OQ);
    __m256 inverse = _mm256_and_ps(positive, _mm256_div_ps(_mm256_set1_ps(kLargest), peak));
    __m256i q[4];
    __m256i sum = _mm256_setzero_si256();
    for (int c = 0; c < 4; c++) {
        q[c] = _mm256_cvtps_epi32(_mm256_mul_ps(chunk[c], inverse));
        sum = _mm256_add_epi32(sum, q[c]);
    }
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    alignas(32) int64_t out[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(out), bytes);
    for (int c = 0; c < 4; c++) memcpy(span.values + c * kChunk + 4 * group, out + c, 8);
    span.scales[group] = _mm256_cvtss_f32(scale);
    span.scales[group + 1] = _mm_cvtss_f32(_mm256_extractf128_ps(scale, 1));
    return _mm256_mul_ps(scale, _mm256_cvtepi32_ps(sum));
}
#endif

// Returns the sum over the span of scale * integer.
inline float quantize_span(const float* ordered, QuantizedSpan& span) {
#if defined(__AVX2__)
    __m256 sums = _mm256_setzero_ps();
    for (int group = 0; group < kGroups; group += 2)
        sums = _mm256_add_ps(sums, quantize_two_groups(ordered, group, span));
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
#else
    float sum = 0;
    for (int group = 0; group < kGroups; group++) sum += quantize_group(ordered, group, span);
    return sum;
#endif
}

// Even columns to the first half of a span, odd ones to the second.
inline void split_even_odd(const float* columns, float* ordered) {
    for (int i = 0; i < kSpan / 2; i++) {
        ordered[i] = columns[2 * i];
        ordered[kSpan / 2 + i] = columns[2 * i + 1];
    }
}

// As `PackedNibbles::floats` in tiles.h unpacks them: 128 columns are 16 words; vectors of words, then nibbles of a
// word. The even column of a byte is its high nibble.
inline void order_for_exact_nibbles(const float* columns, float* ordered) {
    for (int first = 0; first < kSpan; first += 8 * kLanes)
        for (int k = 0; k < 8; k++)
            for (int lane = 0; lane < kLanes; lane++) *ordered++ = columns[first + 8 * lane + (k ^ 1)];
}

// The columns of span number `index` as float32, zeros after the last one.
inline void read_span(const void* row, Type type, int64_t row_start, int64_t columns, int64_t index, float* to) {
    int64_t first = index * kSpan;
    int64_t count = columns - first < kSpan ? columns - first : kSpan;
    read_numbers(row, type, row_start + first, count, to);
    for (int64_t i = count; i < kSpan; i++) to[i] = 0;
}

// A row of `columns` numbers to quantized spans. Returns the sum of scale * integer over the row.
inline float quantize_row(
    const void* x, Type type, int64_t row_start, int64_t columns, int bits, QuantizedSpan* spans) {
    alignas(64) float values[kSpan], split[kSpan];
    float sum = 0;
    for (int64_t index = 0; index * kSpan < columns; index++) {
        read_span(x, type, row_start, columns, index, values);
        if (bits == 4) split_even_odd(values, split);
        sum += quantize_span(bits == 4 ? split : values, spans[index]);
    }
    return sum;
}

// Takes what a span holds from `ordered` and notes what the offset of the weights adds to its products.
inline void take_off(PartSpan& span, float* ordered) {
    float scales[kChunk];
    int32_t sums[kChunk] = {};
    for (int i = 0; i < kChunk; i++) scales[i] = span.scales[i / 4];
    for (int c = 0; c < 4; c++)
        for (int i = 0; i < kChunk; i++) {
            ordered[c * kChunk + i] -= scales[i] * span.values[c * kChunk + i];
            sums[i] += span.values[c * kChunk + i];
        }
    for (int group = 0; group < kGroups; group++) {
        const int32_t* of = sums + 4 * group;
        span.excess[group] = kNibbleOffset * (of[0] + of[1] + of[2] + of[3]);
    }
}

// A row of `columns` numbers, for INT4, to `kSplit` rows of spans, `stride` apart.
inline void split_row(const void* x, Type type, int64_t columns, PartSpan* spans, int64_t stride) {
    alignas(64) float values[kSpan], ordered[kSpan];
    for (int64_t index = 0; index * kSpan < columns; index++) {
        read_span(x, type, 0, columns, index, values);
        split_even_odd(values, ordered);
        for (int part = 0; part < kSplit; part++) {
            PartSpan& span = spans[part * stride + index];
            quantize_span(ordered, span);
            take_off(span, ordered);
        }
    }
}

inline void order_row(const void* x, Type type, int64_t row_start, int64_t columns, int bits, ExactSpan* spans) {
    alignas(64) float values[kSpan];
    for (int64_t index = 0; index * kSpan < columns; index++) {
        read_span(x, type, row_start, columns, index, bits == 4 ? values : spans[index].values);
        if (bits == 4) order_for_exact_nibbles(values, spans[index].values);
    }
}
