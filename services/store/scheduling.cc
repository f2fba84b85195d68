#include "services/store/scheduling.h"

#include <algorithm>
#include <map>
#include <tuple>

namespace shiftadd {
namespace {

// What has been started and what is left in one lane of PROFILE tasks.
struct Lane {
  int running = 0;
  int ready = 0;
};

// Smaller is better. The task's own order comes last, so that the choice is always the same.
std::tuple<bool, int, bool, int, int, uint32_t> Rank(const SchedulableTask& task,
                                                     const std::map<uint32_t, Lane>& lanes,
                                                     bool held, const std::string& worker) {
  int crowd = 0, left = 0;
  if (task.kind == v1::TASK_KIND_PROFILE) {
    crowd = lanes.at(task.lane).running;
    left = -lanes.at(task.lane).ready;
  }
  return {task.last_worker == worker, task.rank, !held, crowd, left, task.ordinal};
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
  std::map<uint32_t, Lane> lanes;
  for (const SchedulableTask& t : job.tasks) {
    if (t.kind != v1::TASK_KIND_PROFILE) continue;
    ++(t.running ? lanes[t.lane].running : lanes[t.lane].ready);
  }
  if (const SchedulableTask* repair = LastRepair(job); repair != nullptr) {
    const bool lost = other_workers && repair->last_worker == query.worker;
    return repair->running || lost ? nullptr : repair;
  }
  const SchedulableTask* best = nullptr;
  std::tuple<bool, int, bool, int, int, uint32_t> best_rank;
  for (const SchedulableTask& t : job.tasks) {
    if (t.running || (other_workers && t.last_worker == query.worker)) continue;
    const bool held = t.kind == v1::TASK_KIND_PROFILE && query.held_job == job.job_id &&
                      query.held_ordinal == t.ordinal;
    const auto rank = Rank(t, lanes, held, query.worker);
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
