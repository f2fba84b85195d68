#include "worker/serve/thread_pool.h"

#include <algorithm>
#include <cmath>

#include "worker/machine/machine.h"
#include "worker/serve/pause.h"

namespace shiftadd {
namespace {

constexpr uint64_t kLow = 0xffffffffu;
// Some ten microseconds: longer than the gaps within a token, shorter than a scheduler's time
// slice.
constexpr int kSpins = 1500;
// Who sleeps may not get its core back soon.
constexpr int kCrowdedSpins = 10000;
// In place of each thread, on crowded cores: a core is divided by the threads that want it.
constexpr int kCrowdedThreads = 3;
// The shortest turns that Linux gives.
constexpr int64_t kShortTurns = 100'000;

}  // namespace

int UsableThreads() {
  const Machine machine = FindMachine();
  int count = std::max(1, machine.usable_cores);
  if (machine.cgroup_cores > 0) {
    count = std::min(count, std::max(1, static_cast<int>(std::ceil(machine.cgroup_cores))));
  }
  return count;
}

Crowding DefaultCrowding(int threads) {
  const Machine machine = FindMachine();
  const bool quota = machine.cgroup_cores > 0 && machine.cgroup_cores < machine.usable_cores;
  return quota || threads < machine.usable_cores ? Crowding::kNever : Crowding::kWatched;
}

ThreadPool::ThreadPool(int threads, Crowding crowding)
    : threads_(std::max(1, threads)),
      crowding_(threads_ == 1 ? Crowding::kNever : crowding),
      watch_(threads_),
      meters_(static_cast<size_t>(threads_)) {
  crowded_.store(crowding_ == Crowding::kAlways);
  const int helpers = crowding_ == Crowding::kNever ? threads_ - 1 : kCrowdedThreads * threads_;
  for (int t = 1; t <= helpers; ++t) helpers_.emplace_back([this, t] { Helper(t); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_seq_cst);
  WakeSleepers();
  wake_idle_.notify_all();
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
  const int64_t start = MonotonicNanoseconds();
  if (crowded_.load()) {
    RunCrowded();
  } else {
    RunAmongThem();
  }
  if (crowding_ == Crowding::kWatched) Watch(MonotonicNanoseconds() - start);
}

void ThreadPool::RunAmongThem() {
  Open(0);
  while (!finished_.load(std::memory_order_acquire)) {
    Work(0);
    WaitFor([this] {
      return finished_.load(std::memory_order_seq_cst) ||
             (ticket_.load(std::memory_order_seq_cst) & kLow) != 0;
    });
  }
}

void ThreadPool::RunCrowded() {
  if (short_turns_ != std::this_thread::get_id()) {
    short_turns_ = std::this_thread::get_id();
    AskForTurns(kShortTurns);
  }
  Open(0);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) WakeSleepers();
  std::unique_lock<std::mutex> lock(mutex_);
  wake_caller_.wait(lock, [this] { return finished_.load(std::memory_order_seq_cst); });
}

void ThreadPool::Watch(int64_t nanoseconds) {
  if (caller_ != std::this_thread::get_id()) {
    caller_ = std::this_thread::get_id();
    waited_of_others_ += meters_[0].Waited();
    meters_[0].Attach();
    waited_of_others_ -= meters_[0].Waited();
  }
  if (!watch_.Add(nanoseconds)) return;
  int64_t waited = waited_of_others_;
  for (const WaitMeter& meter : meters_) waited += meter.Waited();
  watch_.Decide(waited);
  if (watch_.crowded() != crowded_.load()) SetCrowded(watch_.crowded());
}

void ThreadPool::SetCrowded(bool crowded) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    crowded_.store(crowded);
  }
  if (crowded) {
    wake_idle_.notify_all();
  } else if (short_turns_ == std::this_thread::get_id()) {
    AskForTurns(0);
    short_turns_ = std::thread::id();
  }
}

void ThreadPool::Open(int64_t loop) {
  const int64_t count = static_cast<int64_t>(loops_.size());
  while (loop < count && loops_[loop].items <= 0) ++loop;
  if (loop == count) return Finish();
  const Loop& l = loops_[loop];
  open_ = loop;
  const int64_t chunks = (l.items + l.grain - 1) / l.grain;
  chunks_ = chunks;
  unfinished_.store(chunks, std::memory_order_relaxed);
  const uint64_t number = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
  ticket_.store(number << 32 | static_cast<uint64_t>(chunks), std::memory_order_seq_cst);
  // Who opens a loop works on it: a single chunk is worth no call of the kernel. The loop may be
  // over already: its fields are not read any more.
  if (chunks > 1 && sleepers_.load(std::memory_order_seq_cst) > 0) WakeSleepers();
}

void ThreadPool::Finish() {
  const bool crowded = crowded_.load();  // the caller may change it at once
  finished_.store(true, std::memory_order_seq_cst);
  if (crowded) {
    { std::lock_guard<std::mutex> lock(mutex_); }
    wake_caller_.notify_one();
  } else if (sleepers_.load(std::memory_order_seq_cst) > 0) {
    WakeSleepers();
  }
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
  for (;;) {
    if (crowded_.load(std::memory_order_relaxed)) StandClearOfTick();
    if (!TakeChunk(&chunk)) return;
    RunChunk(chunk, thread);
  }
}

template <class Ready>
void ThreadPool::WaitFor(Ready ready) {
  const int spins = crowded_.load(std::memory_order_relaxed) ? kCrowdedSpins : kSpins;
  for (int i = 0; i < spins; ++i) {
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
  if (thread < threads_) meters_[static_cast<size_t>(thread)].Attach();
  while (!stop_.load(std::memory_order_seq_cst)) {
    if (Idle(thread)) {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_idle_.wait(lock, [&] { return stop_.load() || !Idle(thread); });
      continue;
    }
    Work(thread);
    WaitFor([&] {
      return stop_.load(std::memory_order_seq_cst) || Idle(thread) ||
             (ticket_.load(std::memory_order_seq_cst) & kLow) != 0;
    });
  }
}

}  // namespace shiftadd
