// AVX-512 with VNNI: vectors of 16 lanes of 32 bits. Every simd_*.h offers the names of this one.
#pragma once
#include <immintrin.h>
#include <stdint.h>

constexpr const char* kInstructions = "AVX-512 VNNI";
constexpr int kLanes = 16;
constexpr int kRegisters = 32;

using Floats = __m512;
using Ints = __m512i;
using Bytes = __m512i;

inline Floats zero() { return _mm512_setzero_ps(); }
inline Floats load(const float* p) { return _mm512_loadu_ps(p); }
inline Floats load_halves(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Floats load_bfloats(const uint16_t* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
inline Floats broadcast(float v) { return _mm512_set1_ps(v); }
inline void store(float* p, Floats v) { _mm512_storeu_ps(p, v); }
inline Bytes load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline void store_bytes(uint8_t* p, Bytes v) { _mm512_storeu_si512(p, v); }
inline Floats multiply_add(Floats a, Floats b, Floats sum) { return _mm512_fmadd_ps(a, b, sum); }
inline Ints load_ints(const int32_t* p) { return _mm512_loadu_si512(p); }
inline Ints subtract(Ints a, Ints b) { return _mm512_sub_epi32(a, b); }
inline Floats to_floats(Ints v) { return _mm512_cvtepi32_ps(v); }
inline float total(Floats v) { return _mm512_reduce_add_ps(v); }
// The totals of four vectors, added to four numbers: a third of the work of one after the other.
inline void add_totals(Floats a, Floats b, Floats c, Floats d, float* sums) {
    const Floats ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const Floats cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const Floats abcd = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
    const __m128 totals = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    _mm_storeu_ps(sums, _mm_add_ps(_mm_loadu_ps(sums), totals));
}

// The dot product instruction wants one unsigned factor, so weights are kept with an offset added. What that adds to
// a product depends on the activations alone and is taken off at the end.
constexpr int kNibbleOffset = 8;
constexpr int kByteOffset = 128;

// Signed nibbles become 0..15. A ternary-logic instruction does (v ^ 0x88) & 0x0f at once.
inline Bytes offset_nibbles(Bytes v) {
    return _mm512_ternarylogic_epi32(v, _mm512_set1_epi8(8), _mm512_set1_epi8(15), 0x28);
}
inline void split_nibbles(Bytes v, Bytes& high, Bytes& low) {
    high = offset_nibbles(_mm512_srli_epi32(v, 4));
    low = offset_nibbles(v);
}
inline Bytes offset_bytes(Bytes v) { return _mm512_xor_si512(v, _mm512_set1_epi8(-128)); }

// Sums of the four products in each lane, over four vectors.
inline Ints dot_nibbles(const Bytes w[4], const Bytes x[4]) {
    Ints sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w[0], x[0]);
    for (int i = 1; i < 4; i++) sum = _mm512_dpbusd_epi32(sum, w[i], x[i]);
    return sum;
}
inline Ints dot_bytes(const Bytes w[4], const Bytes x[4]) { return dot_nibbles(w, x); }

// Nibble number `k` of every lane, counted from the lowest: the permutation reads the low four bits of its index.
inline Floats nibble_floats(Bytes v, int k) {
    const Floats values = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
    return _mm512_permutexvar_ps(_mm512_srli_epi32(v, 4 * k), values);
}
inline Floats byte_floats(const uint8_t* p) {
    return to_floats(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
