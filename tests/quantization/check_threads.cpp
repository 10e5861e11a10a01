// A team of threads under the thread sanitizer: every task of every round is done once, and before its round is over.
#include <stdio.h>

#include <stdexcept>
#include <vector>

#include "threads.h"

// As GOMP_parallel does, but where this thread comes last.
static void in_threads(void (*body)(void*), void* argument, unsigned count, unsigned) {
    std::vector<std::thread> others;
    for (unsigned i = 1; i < count; i++) others.emplace_back(body, argument);
    body(argument);
    for (std::thread& other : others) other.join();
}

int main() {
    parallel_region = in_threads;
    for (int threads : {1, 2, 7}) {
        Team team(threads);
        std::vector<int64_t> done(100);  // plain numbers: unordered writes would be seen
        team.lead([&] {
            for (int64_t round = 0; round < 2000; round++) {
                const int64_t tasks = round % 100;
                team.run(tasks, [&](int64_t i) { done[i] = done[i] + round; });
                for (int64_t i = 0; i < tasks; i++)
                    if (done[i] < round) throw std::logic_error("a round was over before its tasks were");
            }
        });
        for (int64_t i = 0, wanted; i < 100; i++) {
            wanted = 0;
            for (int64_t round = 0; round < 2000; round++) wanted += i < round % 100 ? round : 0;
            if (done[i] != wanted) return 1;
        }
        Team failing(threads);
        try {
            failing.lead([] { throw std::bad_alloc(); });
            return 2;
        } catch (const std::bad_alloc&) {
        }
    }
    puts("every task once");
}
