// Tasks on the threads that torch uses too.
//
// A second pool of threads next to torch's would fight it for the cores: both spin while they wait. So the entry point
// of the OpenMP runtime that torch has loaded is handed over from Python. It is the one that compilers call for a
// parallel region, GOMP_parallel; the runtimes of GCC, LLVM and Intel all have it.
//
// A region ends when every thread has come, so one that the system has put aside for another program holds up all. A
// decoding step of 300 regions took twenty times as long on a busy machine. Here a team stays together for a whole
// step, and a piece of work is over when its tasks are done, whoever came.
#pragma once
#include <stdint.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>

using ParallelRegion = void (*)(void (*)(void*), void*, unsigned, unsigned);
static ParallelRegion parallel_region = nullptr;

inline void pause_briefly(int times_before) {
    constexpr int kSpins = 2000;  // tens of microseconds: longer than the leader is ever alone with a small task
    if (times_before > kSpins) return std::this_thread::yield();
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

class Team {
public:
    explicit Team(int threads) : threads_(parallel_region ? threads : 1), leader_(std::this_thread::get_id()) {}

    // Calls body() on this thread. Until it returns, the others help with what it gives to run().
    template <class Body>
    void lead(const Body& body) {
        if (threads_ < 2) return body();
        struct Call {
            Team* team;
            const Body* body;
        } call{this, &body};
        parallel_region(
            [](void* c) {
                auto* call = static_cast<Call*>(c);
                call->team->take_part(*call->body);
            },
            &call, static_cast<unsigned>(threads_), 0);
        if (failure_) std::rethrow_exception(failure_);
    }

    // task(0) .. task(tasks - 1), in any order; only the leader calls it. What a task throws ends the program.
    template <class Task>
    void run(int64_t tasks, const Task& task) {
        if (threads_ < 2 || tasks < 2) {
            for (int64_t i = 0; i < tasks; i++) task(i);
            return;
        }
        task_ = &task;
        call_ = [](const void* t, int64_t i) { (*static_cast<const Task*>(t))(i); };
        tasks_ = tasks;
        finished_.store(0, std::memory_order_relaxed);
        ticket_.store(++rounds_ << 32 | static_cast<uint64_t>(tasks), std::memory_order_release);
        while (take_some()) {
        }
        for (int times = 0; finished_.load(std::memory_order_acquire) != tasks; times++) pause_briefly(times);
    }

private:
    template <class Body>
    void take_part(const Body& body) {
        if (std::this_thread::get_id() != leader_) {
            for (int times = 0; !over_.load(std::memory_order_acquire); times++) {
                if (take_some())
                    times = 0;
                else
                    pause_briefly(times);
            }
            return;
        }
        try {
            body();
        } catch (...) {
            failure_ = std::current_exception();
        }
        over_.store(true, std::memory_order_release);
    }

    // False if no task is left. Whoever gets a ticket keeps its round from ending, so what belongs to the round can be
    // read after that and not before. Tasks read memory one after the other and ask for the next one's in advance, so a
    // thread takes many neighbours while many are left; in the end one by one, so that all threads end together.
    bool take_some() {
        uint64_t ticket = ticket_.load(std::memory_order_acquire);
        const uint32_t left = static_cast<uint32_t>(ticket);
        if (left == 0) return false;
        const uint32_t count = std::max<uint32_t>(1, left / (2 * threads_));
        if (!ticket_.compare_exchange_weak(ticket, ticket - count, std::memory_order_acq_rel)) return true;
        for (uint32_t i = 0; i < count; i++) call_(task_, tasks_ - left + i);
        finished_.fetch_add(count, std::memory_order_release);
        return true;
    }

    const int threads_;
    const std::thread::id leader_;
    std::exception_ptr failure_;
    const void* task_ = nullptr;
    void (*call_)(const void*, int64_t) = nullptr;
    int64_t tasks_ = 0;
    uint64_t rounds_ = 0;
    alignas(64) std::atomic<uint64_t> ticket_{0};  // number of the round, and in the lower half how many tasks are left
    alignas(64) std::atomic<int64_t> finished_{0};
    alignas(64) std::atomic<bool> over_{false};
};
