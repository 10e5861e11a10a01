// The floating types that come in and go out; inside, everything is float32.
#pragma once
#include <stdint.h>
#include <string.h>

#include <algorithm>
#if defined(__F16C__)
#include <immintrin.h>
#endif

enum Type { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2 };  // as in native.py

struct Half {
    uint16_t bits;
};
struct BFloat {
    uint16_t bits;
};

inline int64_t type_size(Type type) { return type == kFloat32 ? 4 : 2; }

#if defined(__F16C__)
inline float half_to_float(uint16_t v) { return _cvtsh_ss(v); }
inline uint16_t float_to_half(float v) { return _cvtss_sh(v, _MM_FROUND_TO_NEAREST_INT); }
#else  // ARM, where __fp16 is a storage type of the language
inline float half_to_float(uint16_t v) {
    __fp16 half;
    memcpy(&half, &v, 2);
    return half;
}
inline uint16_t float_to_half(float v) {
    __fp16 half = static_cast<__fp16>(v);
    uint16_t bits;
    memcpy(&bits, &half, 2);
    return bits;
}
#endif

inline float bfloat_to_float(uint16_t v) {
    uint32_t bits = static_cast<uint32_t>(v) << 16;
    float result;
    memcpy(&result, &bits, 4);
    return result;
}

inline uint16_t float_to_bfloat(float v) {
    uint32_t bits;
    memcpy(&bits, &v, 4);
    if (v != v) return static_cast<uint16_t>(bits >> 16 | 0x40);  // rounding could turn a NaN into an infinity
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// `count` numbers of `type` from number `first` on.
inline void read_numbers(const void* from, Type type, int64_t first, int64_t count, float* to) {
    const uint16_t* two_bytes = static_cast<const uint16_t*>(from) + first;
    if (type == kFloat32) {
        memcpy(to, static_cast<const float*>(from) + first, sizeof(float) * count);
    } else if (type == kBFloat16) {
        for (int64_t i = 0; i < count; i++) to[i] = bfloat_to_float(two_bytes[i]);
    } else {
        int64_t i = 0;
#if defined(__F16C__)
        for (; i + 8 <= count; i += 8)
            _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(two_bytes + i))));
#endif
        for (; i < count; i++) to[i] = half_to_float(two_bytes[i]);
    }
}

inline void write_numbers(const float* from, int64_t count, void* to, Type type, int64_t first) {
    uint16_t* two_bytes = static_cast<uint16_t*>(to) + first;
    if (type == kFloat32) {
        memcpy(static_cast<float*>(to) + first, from, sizeof(float) * count);
    } else if (type == kBFloat16) {
        for (int64_t i = 0; i < count; i++) two_bytes[i] = float_to_bfloat(from[i]);
    } else {
        int64_t i = 0;
#if defined(__F16C__)
        for (; i + 8 <= count; i += 8) {
            const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
            _mm_storeu_si128((__m128i*)(two_bytes + i), halves);
        }
#endif
        for (; i < count; i++) two_bytes[i] = float_to_half(from[i]);
    }
}

// e^x, off by less than 1e-7 of it, without a call, so that compilers make vectors of it: as in the Cephes library, 2^n
// times a polynomial. x is cut off where the result would leave float32's range.
inline float exponential(float x) {
    x = std::min(std::max(x, -87.0f), 88.0f);
    constexpr float kRound = 12582912;  // 1.5 * 2^23: a small number added has no room for a fraction
    const float n = x * 1.44269504f + kRound - kRound;
    const float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f * r + 1.3981999507e-3f;
    p = (p * r + 8.3334519073e-3f) * r + 4.1665795894e-2f;
    p = (p * r + 1.6666665459e-1f) * r + 5.0000001201e-1f;
    const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return (p * r * r + r + 1) * power;
}

// combine() over the value()s of a row, from `start` on, in 16 parts: for vectors, and for the precision of sums.
template <class Value, class Combine>
inline float reduce(const float* x, int64_t count, float start, const Value& value, const Combine& combine) {
    constexpr int kCount = 16;
    float parts[kCount], result = start;
    std::fill_n(parts, kCount, start);
    int64_t i = 0;
    for (; i + kCount <= count; i += kCount)
        for (int k = 0; k < kCount; k++) parts[k] = combine(parts[k], value(x[i + k]));
    for (; i < count; i++) result = combine(result, value(x[i]));
    for (float part : parts) result = combine(result, part);
    return result;
}
inline float itself(float v) { return v; }
inline float sum_of(float a, float b) { return a + b; }
inline float larger_of(float a, float b) { return std::max(a, b); }
