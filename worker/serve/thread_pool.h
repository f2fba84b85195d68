// A small pool that splits loops of microseconds over the cores the process may use.
#ifndef SHIFTADD_WORKER_SERVE_THREAD_POOL_H_
#define SHIFTADD_WORKER_SERVE_THREAD_POOL_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"

namespace shiftadd {

// How many threads this process may keep busy: its CPU affinity, lowered by the CPU quotas of its
// control group and those above. At least 1.
int UsableThreads();

// Items [0, items), taken in chunks of `grain` >= 1.
struct Loop {
  int64_t items = 0;
  int64_t grain = 1;
};

// Runs programs: loops of which each begins when the one before is done. No thread leads: whoever
// finishes a loop opens the next one and goes on, so a thread that gets no core holds up only the
// chunk that it has. Idle threads spin shortly, then sleep, so a machine with busy neighbours is
// not slowed by us. Threads are not pinned: alone that gains nothing, and beside busy processes it
// halves the rate (tests/results/busy_neighbours.txt). One caller at a time. Nothing is allocated
// after construction.
class ThreadPool {
 public:
  // `threads` counts the caller: 1 starts no helper.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(helpers_.size()) + 1; }

  // f(loop, begin, end, thread) on every chunk; `loop` is an index of `loops`, `thread` is in
  // [0, threads()). Returns when all is done. f must not throw.
  using Body = absl::FunctionRef<void(int64_t loop, int64_t begin, int64_t end, int thread)>;
  void Run(absl::Span<const Loop> loops, Body f);

 private:
  struct Chunk {
    int64_t loop, begin, end;
  };

  // Opens the first loop from `loop` on that has items, or ends the program.
  void Open(int64_t loop);
  bool TakeChunk(Chunk* chunk);
  void RunChunk(const Chunk& chunk, int thread);
  // Takes chunks until none is open.
  void Work(int thread);
  template <class Ready>
  void WaitFor(Ready ready);
  void WakeSleepers();
  void Helper(int thread);

  // High half: a number that every opened loop has to itself, which keeps a late thread from taking
  // a chunk of a loop that it has not seen; low half: chunks not yet taken.
  std::atomic<uint64_t> ticket_{0};
  std::atomic<int64_t> unfinished_{0};  // chunks of the open loop
  std::atomic<bool> finished_{true};    // the program
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  // These belong to the loop that ticket_ names: they change only when none of its chunks is left.
  const Body* body_ = nullptr;
  absl::Span<const Loop> loops_;
  int64_t open_ = 0;
  int64_t chunks_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> helpers_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_THREAD_POOL_H_
