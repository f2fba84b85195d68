// What is done to a cluster in one round: a pure function of a seed, so that a round that failed
// can be replayed. The same seed gives the same acts at the same times; what the processes do in
// between depends on the machine.
#ifndef SHIFTADD_TESTS_CHAOS_SCHEDULE_H_
#define SHIFTADD_TESTS_CHAOS_SCHEDULE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace shiftadd::testing {

enum class Role { kCoordinator, kWorker, kPackager };
const char* RoleName(Role role);

enum class ActKind {
  kKill,       // kill -9; started again after `pause`
  kTerminate,  // SIGTERM, waited for; started again after `pause`
  kStop,       // SIGSTOP; SIGCONT after `pause`
  kFailPoint,  // kill -9, and started at once with `fail_point` armed
  kDrop,       // every connection to it is reset
  kDelay,      // each piece of data to and from it waits `delay`, for `pause`
  kHold,       // nothing passes to or from it, for `pause`
  kStore,      // kill -9 of PostgreSQL; started again after `pause`
};
const char* ActName(ActKind kind);

struct Act {
  absl::Duration at;  // after the job was submitted
  ActKind kind = ActKind::kKill;
  Role role = Role::kWorker;
  int index = 0;  // among the daemons of its role
  absl::Duration pause;
  absl::Duration delay;
  std::string fail_point;  // NAME:NTH:ACTION
  std::string ToString() const;
};

struct Schedule {
  uint64_t seed = 0;
  bool postgres = false;
  int coordinators = 1;  // on SQLite always one
  int workers = 2;
  bool refine = false;    // the job goes through REFINING too
  std::vector<Act> acts;  // in order of their times
  std::string ToString() const;
};

// Acts are spread over about `length`.
Schedule MakeSchedule(uint64_t seed, absl::Duration length);

// Every name that a daemon of this role passes on its way through a job.
const std::vector<std::string>& FailPointsOf(Role role);

}  // namespace shiftadd::testing

#endif  // SHIFTADD_TESTS_CHAOS_SCHEDULE_H_
