// NEON with the dot product extension (ARMv8.2): vectors of 4 lanes of 32 bits.
#pragma once
#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

constexpr const char* kInstructions = "NEON with dot product";
constexpr int kLanes = 4;
constexpr int kRegisters = 32;

using Floats = float32x4_t;
using Ints = int32x4_t;
using Bytes = int8x16_t;

inline Floats zero() { return vdupq_n_f32(0); }
inline Floats load(const float* p) { return vld1q_f32(p); }
inline Floats load_halves(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
inline Floats load_bfloats(const uint16_t* p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
inline Floats broadcast(float v) { return vdupq_n_f32(v); }
inline void store(float* p, Floats v) { vst1q_f32(p, v); }
inline Bytes load_bytes(const uint8_t* p) { return vreinterpretq_s8_u8(vld1q_u8(p)); }
inline void store_bytes(uint8_t* p, Bytes v) { vst1q_u8(p, vreinterpretq_u8_s8(v)); }
inline Floats multiply_add(Floats a, Floats b, Floats sum) { return vfmaq_f32(sum, a, b); }
inline Ints load_ints(const int32_t* p) { return vld1q_s32(p); }
inline Ints subtract(Ints a, Ints b) { return vsubq_s32(a, b); }
inline Floats to_floats(Ints v) { return vcvtq_f32_s32(v); }
inline float total(Floats v) { return vaddvq_f32(v); }
// The totals of four vectors, added to four numbers.
inline void add_totals(Floats a, Floats b, Floats c, Floats d, float* sums) {
    const Floats totals = vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d));
    vst1q_f32(sums, vaddq_f32(vld1q_f32(sums), totals));
}

// Both factors are signed here: no offsets.
constexpr int kNibbleOffset = 0;
constexpr int kByteOffset = 0;
inline void split_nibbles(Bytes v, Bytes& high, Bytes& low) {
    high = vshrq_n_s8(v, 4);
    low = vshrq_n_s8(vshlq_n_s8(v, 4), 4);
}
inline Bytes offset_bytes(Bytes v) { return v; }

inline Ints dot_nibbles(const Bytes w[4], const Bytes x[4]) {
    Ints sum = vdotq_s32(vdupq_n_s32(0), w[0], x[0]);
    for (int i = 1; i < 4; i++) sum = vdotq_s32(sum, w[i], x[i]);
    return sum;
}
inline Ints dot_bytes(const Bytes w[4], const Bytes x[4]) { return dot_nibbles(w, x); }

inline Floats nibble_floats(Bytes v, int k) {
    Ints top = vshlq_s32(vreinterpretq_s32_s8(v), vdupq_n_s32(28 - 4 * k));
    return to_floats(vshrq_n_s32(top, 28));
}
inline Floats byte_floats(const uint8_t* p) {
    int32_t four;
    memcpy(&four, p, 4);
    int8x8_t bytes = vreinterpret_s8_s32(vdup_n_s32(four));
    return to_floats(vmovl_s16(vget_low_s16(vmovl_s8(bytes))));
}
