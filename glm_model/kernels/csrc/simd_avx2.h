// AVX2: vectors of 8 lanes of 32 bits, with the 256-bit dot product (AVX-VNNI) where the CPU has it.
#pragma once
#include <immintrin.h>
#include <stdint.h>

#if defined(__AVXVNNI__) || (defined(__AVX512VNNI__) && defined(__AVX512VL__))
#define GLM_DOT256 1
#endif

#ifdef GLM_DOT256
constexpr const char* kInstructions = "AVX2 with AVX-VNNI";
#else
constexpr const char* kInstructions = "AVX2";
#endif
constexpr int kLanes = 8;
constexpr int kRegisters = 16;

using Floats = __m256;
using Ints = __m256i;
using Bytes = __m256i;

inline Floats zero() { return _mm256_setzero_ps(); }
inline Floats load(const float* p) { return _mm256_loadu_ps(p); }
inline Floats load_halves(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline Floats load_bfloats(const uint16_t* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
inline Floats broadcast(float v) { return _mm256_set1_ps(v); }
inline void store(float* p, Floats v) { _mm256_storeu_ps(p, v); }
inline Bytes load_bytes(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline void store_bytes(uint8_t* p, Bytes v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
inline Floats multiply_add(Floats a, Floats b, Floats sum) { return _mm256_fmadd_ps(a, b, sum); }
inline Ints load_ints(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline Ints subtract(Ints a, Ints b) { return _mm256_sub_epi32(a, b); }
inline Floats to_floats(Ints v) { return _mm256_cvtepi32_ps(v); }
inline float total(Floats v) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
// The totals of four vectors, added to four numbers: a third of the work of one after the other.
inline void add_totals(Floats a, Floats b, Floats c, Floats d, float* sums) {
    const Floats abcd = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    const __m128 totals = _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1));
    _mm_storeu_ps(sums, _mm_add_ps(_mm_loadu_ps(sums), totals));
}

constexpr int kNibbleOffset = 8;
// Signed nibbles become 0..15.
inline void split_nibbles(Bytes v, Bytes& high, Bytes& low) {
    const Bytes offset = _mm256_xor_si256(v, _mm256_set1_epi8(-120));
    high = _mm256_and_si256(_mm256_srli_epi16(offset, 4), _mm256_set1_epi8(15));
    low = _mm256_and_si256(offset, _mm256_set1_epi8(15));
}

#ifdef GLM_DOT256

inline Ints dot4(Ints sum, Bytes w, Bytes x) {
#ifdef __AVXVNNI__
    return _mm256_dpbusd_avx_epi32(sum, w, x);
#else
    return _mm256_dpbusd_epi32(sum, w, x);
#endif
}
constexpr int kByteOffset = 128;
inline Bytes offset_bytes(Bytes v) { return _mm256_xor_si256(v, _mm256_set1_epi8(-128)); }
inline Ints dot_nibbles(const Bytes w[4], const Bytes x[4]) {
    Ints sum = dot4(_mm256_setzero_si256(), w[0], x[0]);
    for (int i = 1; i < 4; i++) sum = dot4(sum, w[i], x[i]);
    return sum;
}
inline Ints dot_bytes(const Bytes w[4], const Bytes x[4]) { return dot_nibbles(w, x); }

#else

constexpr int kByteOffset = 0;
inline Bytes offset_bytes(Bytes v) { return v; }
inline Ints sum_of_pairs(__m256i v) { return _mm256_madd_epi16(v, _mm256_set1_epi16(1)); }

// Pairs of products are at most 2 * 15 * 127, so four of them fit in 16 bits.
inline Ints dot_nibbles(const Bytes w[4], const Bytes x[4]) {
    __m256i a = _mm256_add_epi16(_mm256_maddubs_epi16(w[0], x[0]), _mm256_maddubs_epi16(w[1], x[1]));
    __m256i b = _mm256_add_epi16(_mm256_maddubs_epi16(w[2], x[2]), _mm256_maddubs_epi16(w[3], x[3]));
    return sum_of_pairs(_mm256_add_epi16(a, b));
}

// |w| times x with the sign of w: at most 2 * 128 * 127 for a pair, which fits in 16 bits, but two of them do not.
inline Ints dot_bytes(const Bytes w[4], const Bytes x[4]) {
    Ints sum = _mm256_setzero_si256();
    for (int i = 0; i < 4; i++) {
        __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w[i]), _mm256_sign_epi8(x[i], w[i]));
        sum = _mm256_add_epi32(sum, sum_of_pairs(pairs));
    }
    return sum;
}

#endif

inline Floats nibble_floats(Bytes v, int k) {
    return to_floats(_mm256_srai_epi32(_mm256_slli_epi32(v, 28 - 4 * k), 28));
}
inline Floats byte_floats(const uint8_t* p) {
    return to_floats(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
