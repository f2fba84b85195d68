#include "worker/serve/thread_pool.h"

#include <algorithm>
#include <cmath>

#include "worker/machine/machine.h"

namespace shiftadd {
namespace {

constexpr uint64_t kLow = 0xffffffffu;
// Some ten microseconds: longer than the gaps within a token, shorter than a scheduler's time
// slice.
constexpr int kSpins = 1500;

void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

int UsableThreads() {
  const Machine machine = FindMachine();
  int count = std::max(1, machine.usable_cores);
  if (machine.cgroup_cores > 0) {
    count = std::min(count, std::max(1, static_cast<int>(std::ceil(machine.cgroup_cores))));
  }
  return count;
}

ThreadPool::ThreadPool(int threads) {
  for (int t = 1; t < threads; ++t) helpers_.emplace_back([this, t] { Helper(t); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_seq_cst);
  WakeSleepers();
  for (std::thread& helper : helpers_) helper.join();
}

void ThreadPool::Run(absl::Span<const Loop> loops, Body f) {
  if (helpers_.empty()) {
    for (size_t i = 0; i < loops.size(); ++i) {
      if (loops[i].items > 0) f(static_cast<int64_t>(i), 0, loops[i].items, 0);
    }
    return;
  }
  body_ = &f;
  loops_ = loops;
  finished_.store(false, std::memory_order_relaxed);
  Open(0);
  while (!finished_.load(std::memory_order_acquire)) {
    Work(0);
    WaitFor([this] {
      return finished_.load(std::memory_order_seq_cst) ||
             (ticket_.load(std::memory_order_seq_cst) & kLow) != 0;
    });
  }
}

void ThreadPool::Open(int64_t loop) {
  const int64_t count = static_cast<int64_t>(loops_.size());
  while (loop < count && loops_[loop].items <= 0) ++loop;
  if (loop == count) {
    finished_.store(true, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) WakeSleepers();
    return;
  }
  const Loop& l = loops_[loop];
  open_ = loop;
  chunks_ = (l.items + l.grain - 1) / l.grain;
  unfinished_.store(chunks_, std::memory_order_relaxed);
  const uint64_t number = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
  ticket_.store(number << 32 | static_cast<uint64_t>(chunks_), std::memory_order_seq_cst);
  // Who opens a loop works on it: a single chunk is worth no call of the kernel.
  if (chunks_ > 1 && sleepers_.load(std::memory_order_seq_cst) > 0) WakeSleepers();
}

bool ThreadPool::TakeChunk(Chunk* chunk) {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  while ((ticket & kLow) != 0) {
    if (ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel)) {
      // The loop cannot end before this chunk does, so its fields are stable from here on.
      const Loop& l = loops_[open_];
      chunk->loop = open_;
      chunk->begin = (chunks_ - static_cast<int64_t>(ticket & kLow)) * l.grain;
      chunk->end = std::min(l.items, chunk->begin + l.grain);
      return true;
    }
  }
  return false;
}

void ThreadPool::RunChunk(const Chunk& chunk, int thread) {
  (*body_)(chunk.loop, chunk.begin, chunk.end, thread);
  if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) Open(chunk.loop + 1);
}

void ThreadPool::Work(int thread) {
  Chunk chunk;
  while (TakeChunk(&chunk)) RunChunk(chunk, thread);
}

template <class Ready>
void ThreadPool::WaitFor(Ready ready) {
  for (int i = 0; i < kSpins; ++i) {
    if (ready()) return;
    Pause();
  }
  std::unique_lock<std::mutex> lock(mutex_);
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  wake_.wait(lock, ready);
  sleepers_.fetch_sub(1, std::memory_order_seq_cst);
}

void ThreadPool::WakeSleepers() {
  { std::lock_guard<std::mutex> lock(mutex_); }
  wake_.notify_all();
}

void ThreadPool::Helper(int thread) {
  while (!stop_.load(std::memory_order_seq_cst)) {
    Work(thread);
    WaitFor([this] {
      return stop_.load(std::memory_order_seq_cst) ||
             (ticket_.load(std::memory_order_seq_cst) & kLow) != 0;
    });
  }
}

}  // namespace shiftadd
