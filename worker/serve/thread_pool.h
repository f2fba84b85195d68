// A small pool that splits loops of microseconds over the cores the process may use.
#ifndef SHIFTADD_WORKER_SERVE_THREAD_POOL_H_
#define SHIFTADD_WORKER_SERVE_THREAD_POOL_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "worker/serve/crowd_watch.h"

namespace shiftadd {

// How many threads this process may keep busy: its CPU affinity, lowered by the CPU quotas of its
// control group and those above. At least 1.
int UsableThreads();

// Items [0, items), taken in chunks of `grain` >= 1.
struct Loop {
  int64_t items = 0;
  int64_t grain = 1;
};

// Whether a pool has its other way of working, for cores that busy neighbours want too.
enum class Crowding {
  kNever,
  kAlways,   // tests and measurements
  kWatched,  // while threads wait for a core
};

// kWatched for a pool that is to have all cores of the machine, else kNever: to start more threads
// would be to use more cores than was asked for, and a quota's end is no neighbour.
Crowding DefaultCrowding(int threads);

// Runs programs: loops of which each begins when the one before is done. No thread leads: whoever
// finishes a loop opens the next one and goes on, so a thread that gets no core holds up only the
// chunk that it has. Idle threads spin shortly, then sleep, so a machine with busy neighbours is
// not slowed by us. Threads are not pinned: alone that gains nothing, and beside busy processes it
// halves the rate (tests/results/busy_neighbours.txt).
//
// On crowded cores three threads a core work in place of one, and none holds a chunk when it loses
// its core; the caller sleeps meanwhile, as nothing goes on after a program without it. Alone that
// is slower by a fifth.
//
// One caller at a time. Nothing is allocated after construction.
class ThreadPool {
 public:
  // `threads` counts the caller: 1 starts no helper, and is never crowded.
  explicit ThreadPool(int threads, Crowding crowding = Crowding::kNever);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }
  // Whether the next program runs as on crowded cores: chunks are to be short then.
  bool crowded() const { return crowded_.load(std::memory_order_relaxed); }
  // Bounds the numbers of threads, crowded or not.
  int slots() const { return static_cast<int>(helpers_.size()) + 1; }

  // f(loop, begin, end, thread) on every chunk; `loop` is an index of `loops`, `thread` is in
  // [0, slots()), one for each thread that works at a time. Returns when all is done. f must not
  // throw.
  using Body = absl::FunctionRef<void(int64_t loop, int64_t begin, int64_t end, int thread)>;
  void Run(absl::Span<const Loop> loops, Body f);

 private:
  struct Chunk {
    int64_t loop, begin, end;
  };

  // Opens the first loop from `loop` on that has items, or ends the program.
  void Open(int64_t loop);
  void Finish();
  bool TakeChunk(Chunk* chunk);
  void RunChunk(const Chunk& chunk, int thread);
  // Takes chunks until none is open.
  void Work(int thread);
  template <class Ready>
  void WaitFor(Ready ready);
  void WakeSleepers();
  void Helper(int thread);
  // While the pool is not crowded: helpers of which it has no need.
  bool Idle(int thread) const { return thread >= threads_ && !crowded_.load(); }
  // The caller's part of a program.
  void RunAmongThem();
  void RunCrowded();
  void Watch(int64_t nanoseconds);
  void SetCrowded(bool crowded);

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
  std::condition_variable wake_idle_;    // helpers, when the cores get crowded
  std::condition_variable wake_caller_;  // on crowded cores, at the program's end

  const int threads_;
  const Crowding crowding_;
  std::atomic<bool> crowded_{false};  // changes only between programs
  CrowdWatch watch_;
  std::deque<WaitMeter> meters_;  // of the caller and of helpers [1, threads_)
  std::thread::id caller_;        // whom meters_[0] measures
  int64_t waited_of_others_ = 0;  // callers before this one
  std::thread::id short_turns_;   // who has asked for them
  std::vector<std::thread> helpers_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_THREAD_POOL_H_
