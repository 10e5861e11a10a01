// How fast this machine can read its memory: what a product with one row of activations is measured against.
#include "../glm_model/kernels/csrc/threads.h"

#include <stdint.h>

extern "C" {

void read_with_threads_of(void* gomp_parallel) { parallel_region = reinterpret_cast<ParallelRegion>(gomp_parallel); }

// The sum of all 64-bit words, so that no read can be left out.
uint64_t read_all(const uint64_t* words, int64_t count, int threads) {
    const int64_t block = 1 << 15;  // words in a task: 256 KiB
    std::atomic<uint64_t> total{0};
    Team team(threads);
    team.lead([&] {
        team.run(count / block, [&](int64_t task) {
            const uint64_t* from = words + task * block;
            uint64_t sum = 0;
            for (int64_t i = 0; i < block; i++) sum += from[i];
            total.fetch_add(sum, std::memory_order_relaxed);
        });
    });
    return total;
}
}
