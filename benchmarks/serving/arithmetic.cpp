// How fast this machine can multiply: what prompts and steps of many rows are measured against.
//
// The instructions are those of the innermost loops of csrc/tiles.h, on activations in the first-level cache and with
// weights that are in registers already. What a product does besides (it unpacks weights, adds up lanes, moves on to the
// next tile) is what keeps it from this limit.
#include "../../glm_model/kernels/csrc/simd.h"
#include "../../glm_model/kernels/csrc/threads.h"

#include <stdint.h>

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

constexpr int kSums = 8;             // at once, in registers: an addition waits for the one before it
constexpr int kVector = 4 * kLanes;  // bytes
constexpr int kTasks = 8;            // for each thread, so that all end together

struct alignas(64) Activations {
    uint8_t values[kSums * 4 * kVector];  // 2 KB at the most
    float floats[kSums * kLanes];
    float scales[kLanes];
};

// Four vectors of integers are multiplied and added up lane by lane, made floats, scaled, and added to a sum.
inline float multiply_integers(const Activations& x, int64_t repeats) {
    const Floats scales = load(x.scales);
    Bytes weights[4];
    UNROLL for (int c = 0; c < 4; c++) weights[c] = load_bytes(x.values + c * kVector);
    Floats sums[kSums];
    UNROLL for (int k = 0; k < kSums; k++) sums[k] = zero();
    for (int64_t i = 0; i < repeats; i++) {
        UNROLL for (int k = 0; k < kSums; k++) {
            Bytes values[4];
            UNROLL for (int c = 0; c < 4; c++) values[c] = load_bytes(x.values + (4 * k + c) * kVector);
            sums[k] = multiply_add(to_floats(dot_nibbles(weights, values)), scales, sums[k]);
        }
        asm volatile("" ::: "memory");  // the activations are read again
    }
    float all = 0;
    UNROLL for (int k = 0; k < kSums; k++) all += total(sums[k]);
    return all;
}

inline float multiply_floats(const Activations& x, int64_t repeats) {
    const Floats weight = load(x.scales);
    Floats sums[kSums];
    UNROLL for (int k = 0; k < kSums; k++) sums[k] = zero();
    for (int64_t i = 0; i < repeats; i++) {
        UNROLL for (int k = 0; k < kSums; k++) sums[k] = multiply_add(weight, load(x.floats + k * kLanes), sums[k]);
        asm volatile("" ::: "memory");
    }
    float all = 0;
    UNROLL for (int k = 0; k < kSums; k++) all += total(sums[k]);
    return all;
}

extern "C" {

void multiply_with_threads_of(void* gomp_parallel) { parallel_region = reinterpret_cast<ParallelRegion>(gomp_parallel); }

// So many products, at the least, on each thread; returns how many those of all threads were.
int64_t multiply_all(int floats, int64_t products, int threads) {
    const int64_t in_one = floats ? kSums * kLanes : kSums * 4 * kVector;
    const int64_t repeats = products / kTasks / in_one + 1;
    std::atomic<int> finite{0};
    Team team(threads);
    team.lead([&] {
        team.run(kTasks * threads, [&](int64_t) {
            Activations x = {};
            asm volatile("" : : "r"(&x) : "memory");  // who knows what they are
            const float sum = floats ? multiply_floats(x, repeats) : multiply_integers(x, repeats);
            finite.fetch_add(sum < 1e30f, std::memory_order_relaxed);
        });
    });
    return finite * repeats * in_one;
}
}
