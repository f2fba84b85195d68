#include "services/store/job_store.h"

#include <set>

namespace shiftadd {

const char* TaskStateName(TaskState state) {
  switch (state) {
    case TaskState::kReady:
      return "ready";
    case TaskState::kRunning:
      return "running";
    case TaskState::kDone:
      return "done";
    case TaskState::kFailed:
      return "failed";
    case TaskState::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

bool IsTerminal(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED;
}

int TaskRecord::lost_attempts() const {
  int sum = 0;
  for (const auto& [cause, count] : attempts) {
    if (cause != kExpiredBesideCause) sum += count;
  }
  const auto expired = attempts.find(kExpiredCause);
  if (expired == attempts.end()) return sum;
  std::set<std::string> workers;
  for (const TaskLoss& loss : losses) {
    if (loss.cause == kExpiredCause) workers.insert(loss.worker);
  }
  return workers.size() > 1 ? sum : sum - 1;
}

}  // namespace shiftadd
