#include "services/store/scheduling.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "absl/strings/match.h"

namespace shiftadd {
namespace {

// What has been started and what is left in one lane of PROFILE tasks.
struct Lane {
  int running = 0;
  int ready = 0;
};
using Lanes = std::map<uint32_t, Lane>;  // by first block

constexpr char kDevicePrefix[] = "gpu-";  // of the device classes of workers on a device

// Smaller is better. The task's own order comes last, so that the choice is always the same.
using TaskRank = std::tuple<bool, bool, int, bool, int, int, uint32_t>;
TaskRank Rank(const SchedulableTask& task, const Lanes& lanes, bool held, const LeaseQuery& query) {
  int crowd = 0, left = 0;
  if (task.kind == v1::TASK_KIND_PROFILE) {
    crowd = lanes.at(task.lane).running;
    left = -lanes.at(task.lane).ready;
  }
  // Needs no device: a worker with one does it beside its other work, and so has to begin early.
  const bool beside = task.kind == v1::TASK_KIND_HASH || task.kind == v1::TASK_KIND_ENDS;
  const bool first = beside && absl::StartsWith(query.device_class, kDevicePrefix);
  return {task.last_worker == query.worker, !first, task.rank, !held, crowd, left, task.ordinal};
}

// Running the calibration set through a block, beside all of a PROFILE task: about a quarter on a
// GPU (8B, H100), less on a CPU.
constexpr double kPassShare = 0.25;

// Whether the lane ends sooner if one more worker joins it, which has to run all blocks between
// what it holds, or the lane's boundary, and the task's first. Whoever is in the lane needs half a
// task for what it has begun, and then one for each that is ready.
bool WorthJoining(const SchedulableTask& task, const Lanes& lanes, const SchedulableJob& job,
                  const LeaseQuery& query) {
  const Lane& lane = lanes.at(task.lane);
  if (lane.running == 0) return true;
  const bool inside = query.held_job == job.job_id && query.held_ordinal >= task.lane &&
                      query.held_ordinal <= task.ordinal;
  const uint32_t from = inside ? query.held_ordinal : task.lane;
  return 1 + kPassShare * (task.ordinal - from) <= 0.5 + lane.ready;
}

// The last of the open REPAIR tasks; null without one.
const SchedulableTask* LastRepair(const SchedulableJob& job) {
  const SchedulableTask* last = nullptr;
  for (const SchedulableTask& t : job.tasks) {
    if (t.kind != v1::TASK_KIND_REPAIR) continue;
    if (last == nullptr || t.ordinal > last->ordinal) last = &t;
  }
  return last;
}

const SchedulableTask* BestTask(const SchedulableJob& job, const LeaseQuery& query,
                                bool other_workers) {
  Lanes lanes;
  for (const SchedulableTask& t : job.tasks) {
    if (t.kind != v1::TASK_KIND_PROFILE) continue;
    ++(t.running ? lanes[t.lane].running : lanes[t.lane].ready);
  }
  if (const SchedulableTask* repair = LastRepair(job); repair != nullptr) {
    const bool lost = other_workers && repair->last_worker == query.worker;
    return repair->running || lost ? nullptr : repair;
  }
  const SchedulableTask* best = nullptr;
  TaskRank best_rank;
  for (const SchedulableTask& t : job.tasks) {
    if (t.running || (other_workers && t.last_worker == query.worker)) continue;
    if (t.kind == v1::TASK_KIND_PROFILE && !WorthJoining(t, lanes, job, query)) continue;
    const bool held = t.kind == v1::TASK_KIND_PROFILE && query.held_job == job.job_id &&
                      query.held_ordinal == t.ordinal;
    const TaskRank rank = Rank(t, lanes, held, query);
    if (best == nullptr || rank < best_rank) {
      best = &t;
      best_rank = rank;
    }
  }
  return best;
}

}  // namespace

std::string PickTask(const std::vector<SchedulableJob>& jobs, const LeaseQuery& query,
                     bool other_workers, std::string* idle_reason) {
  std::vector<const SchedulableJob*> order;
  order.reserve(jobs.size());
  for (const SchedulableJob& job : jobs) order.push_back(&job);
  std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::make_tuple(a->owner_turn, a->owner, -a->priority, a->age) <
           std::make_tuple(b->owner_turn, b->owner, -b->priority, b->age);
  });
  *idle_reason = "idle";
  for (const SchedulableJob* job : order) {
    const SchedulableTask* task = BestTask(*job, query, other_workers);
    if (task == nullptr) continue;
    if (!job->any_device && !job->device_class.empty() && job->device_class != query.device_class) {
      *idle_reason = "idle: another device class";
      continue;
    }
    return task->task_id;
  }
  return "";
}

}  // namespace shiftadd
