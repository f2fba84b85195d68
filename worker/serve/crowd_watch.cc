#include "worker/serve/crowd_watch.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>

#include "worker/serve/pause.h"

namespace shiftadd {
namespace {

int64_t Nanoseconds(const timespec& t) { return t.tv_sec * int64_t{1'000'000'000} + t.tv_nsec; }

int64_t Now(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return Nanoseconds(t);
}

// Part of the time. Two threads on two cores wait for .41 of it beside one process that never
// sleeps, .54 beside three; .12 beside 200 clients, to whom the cores had better be left.
constexpr int64_t kCrowdedPercent = 35;

// A share of work must fit into kBefore; the interrupt itself and the other cores' are over by
// kAfter.
constexpr int64_t kBefore = 60'000, kAfter = 20'000;

// The kernel's struct sched_attr, first version; glibc has none before 2.41.
struct SchedAttr {
  uint32_t size, policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
};

}  // namespace

int64_t MonotonicNanoseconds() { return Now(CLOCK_MONOTONIC); }

void CrowdWatch::Decide(int64_t waited) {
  crowded_ = !crowded_ && (waited - waited_before_) * 100 >= worked_ * threads_ * kCrowdedPercent;
  stay_ = std::max(kStay, 10 * worked_);
  waited_before_ = waited;
  worked_ = 0;
}

WaitMeter::~WaitMeter() {
  if (file_ >= 0) close(file_);
}

void WaitMeter::Attach() {
  const int file = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
  const int before = file_.exchange(file);
  if (before >= 0) close(before);
}

int64_t WaitMeter::Waited() const {
  const int file = file_;
  char text[96];
  const ssize_t size = file < 0 ? -1 : pread(file, text, sizeof(text) - 1, 0);
  if (size <= 0) return 0;
  text[size] = 0;
  long long ran = 0, waited = 0;
  return std::sscanf(text, "%lld %lld", &ran, &waited) == 2 ? waited : 0;
}

// The coarse clock moves on at ticks (what it shows then is of before), later if the interrupt is
// late, and seldom at other moments too. So: the first moment of the interval, as long as
// interrupts may be late, that has most of the moves.
Ticks Ticks::Find() {
  constexpr int64_t kLate = 150'000;
  timespec t;
  if (clock_getres(CLOCK_MONOTONIC_COARSE, &t) != 0) return {};
  const int64_t length = Nanoseconds(t);
  if (length < 900'000 || length > 10'100'000) return {};  // not a kernel's that ticks
  std::array<int64_t, 12> moves;
  size_t seen = 0;
  int64_t coarse = Now(CLOCK_MONOTONIC_COARSE);
  const int64_t start = Now(CLOCK_MONOTONIC);
  for (int64_t last = start; seen < moves.size() && last - start < 40 * length;) {
    const int64_t coarse_now = Now(CLOCK_MONOTONIC_COARSE);
    const int64_t now = Now(CLOCK_MONOTONIC);
    // Unless the thread lost its core in between.
    if (coarse_now != coarse && now - last < kBefore / 2) moves[seen++] = last % length;
    coarse = coarse_now;
    last = now;
  }
  Ticks best;
  int64_t most = 0;
  for (size_t i = 0; i < seen; ++i) {
    const int64_t near = std::count_if(moves.begin(), moves.begin() + seen, [&](int64_t move) {
      return (move - moves[i] + length) % length < kLate;
    });
    if (near > most) best = {length, moves[i]};
    most = std::max(most, near);
  }
  return best;
}

int64_t Ticks::ToClear(int64_t now) const {
  if (length == 0) return 0;
  const int64_t since = (now - phase) % length;
  if (since < kAfter) return kAfter - since;
  return since > length - kBefore ? length - since + kAfter : 0;
}

void StandClearOfTick() {
  static const Ticks ticks = Ticks::Find();
  const int64_t start = Now(CLOCK_MONOTONIC);
  const int64_t until = start + ticks.ToClear(start);
  for (int64_t now = start; now < until; now = Now(CLOCK_MONOTONIC)) Pause();
}

void AskForTurns(int64_t nanoseconds) {
#ifdef SYS_sched_setattr
  SchedAttr attr{};
  if (syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0) != 0) return;
  if (attr.policy != SCHED_OTHER) return;
  attr.size = sizeof(attr);
  attr.runtime = static_cast<uint64_t>(nanoseconds);
  (void)syscall(SYS_sched_setattr, 0, &attr, 0);
#else
  (void)nanoseconds;
#endif
}

}  // namespace shiftadd
