// Busy neighbours: whether other threads want the cores too, and how to do well beside them.
#ifndef SHIFTADD_WORKER_SERVE_CROWD_WATCH_H_
#define SHIFTADD_WORKER_SERVE_CROWD_WATCH_H_

#include <atomic>
#include <cstdint>

namespace shiftadd {

// CLOCK_MONOTONIC, in nanoseconds.
int64_t MonotonicNanoseconds();

// Decides from how long threads that could run had to wait for a core. While it says that the cores
// are crowded it cannot know whether they still are, as the threads that come in then wait for each
// other; so it says "not crowded" after a while and looks anew. Not thread-safe.
class CrowdWatch {
 public:
  // Of so many threads the waits are given.
  explicit CrowdWatch(int threads) : threads_(threads) {}

  bool crowded() const { return crowded_; }
  // Work of so many nanoseconds was done; whether it is time for Decide.
  bool Add(int64_t nanoseconds) {
    worked_ += nanoseconds;
    return worked_ >= (crowded_ ? stay_ : kWindow);
  }
  // `waited`: the threads' waits together, since some moment in the past.
  void Decide(int64_t waited);

  static constexpr int64_t kWindow = 50'000'000;
  static constexpr int64_t kStay = 500'000'000;  // or ten windows, where a window took longer

 private:
  const int threads_;
  bool crowded_ = false;
  int64_t stay_ = kStay;
  int64_t worked_ = 0;
  int64_t waited_before_ = 0;
};

// How long one thread could run and got no core, as the kernel counts it.
class WaitMeter {
 public:
  WaitMeter() = default;
  ~WaitMeter();
  WaitMeter(const WaitMeter&) = delete;
  WaitMeter& operator=(const WaitMeter&) = delete;

  // Measures the calling thread from now on. Nobody may be in Waited when another Attach than the
  // first comes.
  void Attach();
  // In nanoseconds; 0 before Attach, or if the kernel does not tell. From any thread.
  int64_t Waited() const;

 private:
  std::atomic<int> file_{-1};
};

// The scheduler's ticks: the moments `phase` + n * `length` of CLOCK_MONOTONIC, in nanoseconds. It
// is at ticks that a thread loses its core to one that never sleeps.
struct Ticks {
  int64_t length = 0;  // 0: not known
  int64_t phase = 0;   // below `length`

  // Looks for some ten ticks. All cores are taken to have them at the same moments, as Linux does
  // by default.
  static Ticks Find();
  // How long to wait at `now` so that no tick is near.
  int64_t ToClear(int64_t now) const;
};

// Returns when no tick is near: who took a share of common work just before one would keep all
// others waiting until it is its turn again.
void StandClearOfTick();

// How long the calling thread's turns on a core are to be, in nanoseconds; 0: as the system has
// them. Nobody gets more of the core by it, but who sleeps most of the time and asks for short
// turns is run at once when it wakes. Nothing happens if the thread is not of the usual scheduling
// class, or before Linux 6.12.
void AskForTurns(int64_t nanoseconds);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_CROWD_WATCH_H_
