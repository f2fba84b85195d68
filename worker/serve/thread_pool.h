// A small pool that splits loops of microseconds over the cores the process may use.
#ifndef SHIFTADD_WORKER_SERVE_THREAD_POOL_H_
#define SHIFTADD_WORKER_SERVE_THREAD_POOL_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace shiftadd {

// How many threads this process may keep busy: its CPU affinity, lowered by the cgroup's CPU quota.
// At least 1.
int UsableThreads();

// Helpers wait by a short spin, then asleep, so a machine with busy neighbours is not slowed by us;
// the caller works through all chunks that no helper has taken, so a helper that gets no core holds
// nothing up. One caller at a time.
class ThreadPool {
 public:
  // `threads` counts the caller: 1 starts no helper.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(helpers_.size()) + 1; }

  // f(begin, end, thread) over [0, items) in chunks of `grain`; `thread` is in [0, threads()).
  // Returns when all is done. f must not throw.
  using Body = std::function<void(int64_t, int64_t, int)>;
  void For(int64_t items, int64_t grain, const Body& f);

 private:
  // Takes and runs chunks until none is left; the number it ran.
  void RunChunks(int thread);
  bool TakeChunk(int64_t* chunk);
  void Helper(int thread);
  bool WaitForWork();
  void WaitForCompletion();

  // High half: the loop's number; low half: chunks not yet taken. The number keeps a late helper
  // from taking a chunk of a loop that it has not seen.
  std::atomic<uint64_t> ticket_{0};
  std::atomic<int64_t> unfinished_{0};  // chunks
  std::atomic<int> sleepers_{0};
  std::atomic<bool> caller_sleeps_{false};
  std::atomic<bool> stop_{false};
  const Body* body_ = nullptr;  // these four belong to the loop that ticket_ names
  int64_t items_ = 0;
  int64_t grain_ = 1;
  int64_t chunks_ = 0;
  std::mutex mutex_;
  std::condition_variable work_;
  std::condition_variable done_;
  std::vector<std::thread> helpers_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_THREAD_POOL_H_
