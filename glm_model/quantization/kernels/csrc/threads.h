// Tasks on the threads that torch uses too.
//
// A second pool of threads next to torch's would fight it for the cores: both spin while they wait. So the entry point
// of the OpenMP runtime that torch has loaded is handed over from Python. It is the one that compilers call for a
// parallel region, GOMP_parallel; the runtimes of GCC, LLVM and Intel all have it.
#pragma once
#include <stdint.h>

#include <atomic>

using ParallelRegion = void (*)(void (*)(void*), void*, unsigned, unsigned);
static ParallelRegion parallel_region = nullptr;

template <class Task>
struct Queue {
    const Task* task;
    int64_t tasks;
    std::atomic<int64_t> next{0};

    // Whoever is free takes the next task: other programs may keep some of the cores busy.
    void work() {
        for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) (*task)(i);
    }
};

// task(0) .. task(tasks - 1), in any order, on at most `threads` threads.
template <class Task>
void run_tasks(int64_t tasks, int threads, const Task& task) {
    Queue<Task> queue{&task, tasks};
    if (threads < 2 || tasks < 2 || !parallel_region) return queue.work();
    parallel_region([](void* q) { static_cast<Queue<Task>*>(q)->work(); }, &queue, static_cast<unsigned>(threads), 0);
}
