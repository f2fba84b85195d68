// Which ready task a worker gets. Pure, so every store chooses alike.
#ifndef SHIFTADD_SERVICES_STORE_SCHEDULING_H_
#define SHIFTADD_SERVICES_STORE_SCHEDULING_H_

#include <cstdint>
#include <string>
#include <vector>

#include "services/store/job_store.h"

namespace shiftadd {

struct SchedulableTask {
  std::string task_id;
  v1::TaskKind kind = v1::TASK_KIND_UNSPECIFIED;
  uint32_t ordinal = 0;
  uint32_t lane = 0;
  int rank = 0;
  bool running = false;     // otherwise ready
  std::string last_worker;  // that lost it, if one did
};

struct SchedulableJob {
  std::string job_id;
  std::string owner;
  int64_t owner_turn = 0;  // when its owner last got a task; smaller = longer ago
  int priority = 0;
  int64_t age = 0;           // creation order; smaller = older
  std::string device_class;  // pinned; empty: none yet
  bool any_device = false;
  bool owner_was_last = false;         // no other owner has got a task since
  std::vector<SchedulableTask> tasks;  // ready and running ones
};

// Owners in turn, then priority, then age; within a job by rank, and for PROFILE the block whose
// input the worker holds, otherwise the lane with the fewest workers: one that nobody is in before
// ENDS, and ENDS before one that somebody is in; on a GPU HASH and ENDS, which need none, before
// all. A worker that would come into another's lane when that is nearly done, and would have to run
// all blocks of it before its own, gets nothing there. A task that this worker has lost goes to it
// only if `other_workers` is false. A job in which something is to be repaired offers its last
// REPAIR task and nothing else: what waits for the blob would fail again, and so would a repair
// that an even later one was made for. Returns the task's id, or "" with the reason.
std::string PickTask(const std::vector<SchedulableJob>& jobs, const LeaseQuery& query,
                     bool other_workers, std::string* idle_reason);

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_STORE_SCHEDULING_H_
