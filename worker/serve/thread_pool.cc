#include "worker/serve/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>

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

// CPUs by the cgroup's quota; infinity if there is none.
double CgroupCpus() {
  std::ifstream v2("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (v2 >> quota >> period && quota != "max" && period > 0)
    return std::atof(quota.c_str()) / period;
  std::ifstream v1_quota("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
  std::ifstream v1_period("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  double microseconds = 0;
  if (v1_quota >> microseconds && v1_period >> period && microseconds > 0 && period > 0) {
    return microseconds / period;
  }
  return INFINITY;
}

}  // namespace

int UsableThreads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int count = static_cast<int>(std::thread::hardware_concurrency());
  if (sched_getaffinity(0, sizeof(set), &set) == 0) count = CPU_COUNT(&set);
  const double quota = std::ceil(CgroupCpus());
  if (quota < count) count = static_cast<int>(quota);
  return std::max(count, 1);
}

ThreadPool::ThreadPool(int threads) {
  for (int t = 1; t < threads; ++t) helpers_.emplace_back([this, t] { Helper(t); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  work_.notify_all();
  for (std::thread& helper : helpers_) helper.join();
}

void ThreadPool::For(int64_t items, int64_t grain, const Body& f) {
  if (items <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  const int64_t chunks = (items + grain - 1) / grain;
  if (helpers_.empty() || chunks == 1) {
    f(0, items, 0);
    return;
  }
  body_ = &f;
  items_ = items;
  grain_ = grain;
  chunks_ = chunks;
  unfinished_.store(chunks, std::memory_order_relaxed);
  const uint64_t number = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
  ticket_.store(number << 32 | static_cast<uint64_t>(chunks), std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) {
    { std::lock_guard<std::mutex> lock(mutex_); }
    work_.notify_all();
  }
  RunChunks(0);
  WaitForCompletion();
}

bool ThreadPool::TakeChunk(int64_t* chunk) {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  while ((ticket & kLow) != 0) {
    if (ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel)) {
      // The loop cannot end before this chunk does, so its fields are stable from here on.
      *chunk = chunks_ - static_cast<int64_t>(ticket & kLow);
      return true;
    }
  }
  return false;
}

void ThreadPool::RunChunks(int thread) {
  int64_t chunk = 0;
  while (TakeChunk(&chunk)) {
    const int64_t begin = chunk * grain_;
    (*body_)(begin, std::min(items_, begin + grain_), thread);
    if (unfinished_.fetch_sub(1, std::memory_order_seq_cst) == 1 &&
        caller_sleeps_.load(std::memory_order_seq_cst)) {
      { std::lock_guard<std::mutex> lock(mutex_); }
      done_.notify_one();
    }
  }
}

void ThreadPool::WaitForCompletion() {
  for (int i = 0; i < kSpins; ++i) {
    if (unfinished_.load(std::memory_order_acquire) == 0) return;
    Pause();
  }
  std::unique_lock<std::mutex> lock(mutex_);
  caller_sleeps_.store(true, std::memory_order_seq_cst);
  done_.wait(lock, [this] { return unfinished_.load(std::memory_order_seq_cst) == 0; });
  caller_sleeps_.store(false, std::memory_order_seq_cst);
}

bool ThreadPool::WaitForWork() {
  const auto ready = [this] {
    return stop_.load(std::memory_order_seq_cst) ||
           (ticket_.load(std::memory_order_seq_cst) & kLow) != 0;
  };
  for (int i = 0; i < kSpins; ++i) {
    if (ready()) return !stop_;
    Pause();
  }
  std::unique_lock<std::mutex> lock(mutex_);
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  work_.wait(lock, ready);
  sleepers_.fetch_sub(1, std::memory_order_seq_cst);
  return !stop_;
}

void ThreadPool::Helper(int thread) {
  while (WaitForWork()) RunChunks(thread);
}

}  // namespace shiftadd
