// The vectors of the instruction set that this file is compiled for; build.py decides, from what the CPU has.
#pragma once
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && !defined(GLM_256_BIT)
#include "simd_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "simd_avx2.h"
#elif defined(__ARM_FEATURE_DOTPROD)
#include "simd_neon.h"
#else
#error "no kernel for this CPU: needs AVX2 with FMA and F16C, or NEON with the dot product extension"
#endif
