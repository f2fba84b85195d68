#include "services/coordinator/repair.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/coordinator/planner_internal.h"

namespace shiftadd::coordinator {
namespace {

// Results name what they have stored and nothing else by digest, but for HASH, whose digests are of
// the source's files.
bool Names(const v1::TaskResult& result, const std::string& digest) {
  if (result.has_hash()) return false;
  return absl::StrContains(result.SerializeAsString(), digest);
}

const ViewedTask* Producer(const JobView& view, const std::string& digest) {
  for (const ViewedTask& t : view.tasks()) {
    if (t.record.state == TaskState::kDone && t.record.kind != v1::TASK_KIND_REPAIR &&
        Names(t.result, digest)) {
      return &t;
    }
  }
  return nullptr;
}

// A REPAIR task repeats a payload: which one tells whose it is.
bool SamePayload(const v1::Task& repair, const v1::Task& task) {
  v1::Task a = repair, b = task;
  for (v1::Task* t : {&a, &b}) {
    t->clear_kind();
    t->clear_repaired_digest();
    t->clear_stall_limit();
  }
  return a.SerializeAsString() == b.SerializeAsString();
}

std::string KindName(v1::TaskKind kind) {
  return v1::TaskKind_Name(kind).substr(sizeof("TASK_KIND_") - 1);
}

bool Open(const ViewedTask& t) {
  return t.record.state == TaskState::kReady || t.record.state == TaskState::kRunning;
}

}  // namespace

absl::StatusOr<std::optional<JobUpdate>> PlanRepair(const JobView& view,
                                                    const std::vector<std::string>& lost,
                                                    std::optional<uint32_t> repair) {
  JobUpdate update = internal::StartUpdate(view);
  const auto repairs = view.OfKind(v1::TASK_KIND_REPAIR);
  auto ordinal = static_cast<uint32_t>(repairs.size());
  std::vector<const ViewedTask*> planned;
  for (const std::string& digest : lost) {
    const ViewedTask* producer = Producer(view, digest);
    if (producer == nullptr) {
      return absl::FailedPreconditionError(
          absl::StrCat("blob ", digest, " is lost, and no task of this job has stored it"));
    }
    const auto times = std::count_if(repairs.begin(), repairs.end(), [&](const ViewedTask* t) {
      return t->task.repaired_digest() == digest;
    });
    if (times >= kMaxRepairs) {
      return absl::FailedPreconditionError(
          absl::StrCat("blob ", digest, " was made again ", times, " times and is lost again"));
    }
    const bool open = std::any_of(repairs.begin(), repairs.end(), [&](const ViewedTask* t) {
      return Open(*t) && (!repair.has_value() || t->record.ordinal > *repair) &&
             SamePayload(t->task, producer->task);
    });
    const bool twice = std::find(planned.begin(), planned.end(), producer) != planned.end();
    if (open || twice) continue;
    planned.push_back(producer);
    v1::Task task = producer->task;
    task.set_kind(v1::TASK_KIND_REPAIR);
    task.set_repaired_digest(digest);
    internal::AddTask(&update, task, ordinal++);
    internal::AddLog(&update, absl::StrCat("blob ", digest,
                                           " is lost or damaged: ", KindName(producer->record.kind),
                                           " task ", producer->record.ordinal, " makes it again"));
  }
  if (update.tasks.empty()) return std::nullopt;
  return update;
}

int OpenRepairs(const JobView& view) {
  const auto repairs = view.OfKind(v1::TASK_KIND_REPAIR);
  return static_cast<int>(
      std::count_if(repairs.begin(), repairs.end(), [](const ViewedTask* t) { return Open(*t); }));
}

absl::Status CheckRepaired(const v1::Task& task, const v1::TaskResult& result) {
  if (Names(result, task.repaired_digest())) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("result: names other blobs than before, expected ",
                                                 task.repaired_digest(),
                                                 " among them: equal inputs gave other bytes"));
}

}  // namespace shiftadd::coordinator
