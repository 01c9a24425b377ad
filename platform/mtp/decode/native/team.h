// The threads of one pass: they share the rows of every weight out among themselves and meet at barriers.
//
// A pass has a dozen meetings a layer, some microseconds apart, so a thread that waits spins first. On a machine whose
// processors others use too, the one waited for may not be running: then spinning for long would make it worse, so after
// SPINS looks the thread sleeps until it is woken. (OpenMP's barrier does one or the other: GCC's either spins for
// milliseconds, or sleeps at once, which costs a small model more than its arithmetic.)
#pragma once
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace mtp {

static const int SPINS = 1000;  // some 20 to 50 microseconds

static inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Returns when `value` is no longer `old`.
static inline void await(const std::atomic<uint32_t>& value, uint32_t old) {
  for (int i = 0; i < SPINS; i++) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause();
  }
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

class Barrier {
 public:
  void meet(int size) {
    const uint32_t now = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < size) return await(round_, now);
    arrived_.store(0, std::memory_order_relaxed);
    round_.fetch_add(1, std::memory_order_acq_rel);
    round_.notify_all();
  }

 private:
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> round_{0};
};

struct Team {
  int id, size;
  Barrier* barrier;
  void meet() const {
    if (size > 1) barrier->meet(size);
  }
  // This thread's part of 0..count, cut at multiples of `step`.
  void share(long count, long step, long& begin, long& end) const {
    const long pieces = (count + step - 1) / step;
    begin = pieces * id / size * step;
    end = pieces * (id + 1) / size * step;
    if (begin > count) begin = count;
    if (end > count) end = count;
  }
};

// Threads that wait for work; the one that calls `run` is a member of the team too.
class Pool {
 public:
  explicit Pool(int size) : size_(size) {
    for (int id = 1; id < size; id++) threads_.emplace_back([this, id] { serve(id); });
  }
  ~Pool() {
    work_ = nullptr;
    start();
    for (std::thread& thread : threads_) thread.join();
  }
  void run(const std::function<void(const Team&)>& work) {
    work_ = &work;
    start();
    work(Team{0, size_, &barrier_});
    barrier_.meet(size_);
  }
  const int size_;
  const pid_t process_ = getpid();

 private:
  void start() {
    turn_.fetch_add(1, std::memory_order_acq_rel);
    turn_.notify_all();
  }
  void serve(int id) {
    for (uint32_t seen = 0;; seen++) {
      await(turn_, seen);
      if (!work_) return;
      (*work_)(Team{id, size_, &barrier_});
      barrier_.meet(size_);
    }
  }
  std::vector<std::thread> threads_;
  Barrier barrier_;
  alignas(64) std::atomic<uint32_t> turn_{0};
  const std::function<void(const Team&)>* work_ = nullptr;
};

// Every thread of Python has a pool of its own. A forked child's pool has lost its threads: it is left behind.
template <class Work>
static void run(int threads, Work work) {
  if (threads <= 1) return work(Team{0, 1, nullptr});
  static thread_local std::unique_ptr<Pool> pool;
  if (pool && pool->process_ != getpid()) pool.release();
  if (!pool || pool->size_ != threads) pool = std::make_unique<Pool>(threads);
  pool->run(work);
}

}  // namespace mtp
