// A job with its tasks, read once, and what planning derives from their results.
#ifndef SHIFTADD_SERVICES_COORDINATOR_JOB_VIEW_H_
#define SHIFTADD_SERVICES_COORDINATOR_JOB_VIEW_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/coordinator/budget.h"
#include "services/store/job_store.h"
#include "worker/reference/microbatch.h"

namespace shiftadd::coordinator {

// Windows of a CALIBRATE task. Fixed: it is the cut that fixes the order of every sum over windows.
inline constexpr uint32_t kMicrobatch = ::shiftadd::kMicrobatch;

// Of a job of EvaluatePackage: the divergence of every token is kept until it ends.
inline constexpr uint32_t kMaxEvaluationWindows = 4096;

// Number of CALIBRATE parts of a spec.
uint32_t CalibrationParts(const v1::JobSpec& spec);
uint32_t HeldOutParts(const v1::JobSpec& spec);

struct ViewedTask {
  TaskRecord record;
  v1::Task task;
  v1::TaskResult result;  // empty unless done
};

class JobView {
 public:
  // DATA_LOSS if a row does not parse.
  static absl::StatusOr<JobView> Read(JobStore* store, const std::string& job_id);

  const JobRecord& record() const { return record_; }
  const v1::Job& job() const { return record_.job; }
  const std::vector<ViewedTask>& tasks() const { return tasks_; }

  // In order of their ordinals.
  std::vector<const ViewedTask*> OfKind(v1::TaskKind kind) const;
  // There are some, and all are done.
  bool Done(v1::TaskKind kind) const;
  bool AllDone() const;  // every task there is
  const ViewedTask* FirstFailed() const;

  // CALIBRATE results in order of their parts.
  std::vector<std::string> TokenDigests(bool held_out) const;
  ReportMap Reports() const;
  // Every blob that a package of this job might hold.
  std::vector<std::string> KeptBlobs() const;
  const v1::EndsResult& Ends() const;
  // The EVALUATE tasks of the last evaluation; a job that is refined has two.
  std::vector<const ViewedTask*> Evaluation() const;
  // Those of the last evaluation; empty before EVALUATING.
  std::vector<v1::Variant> Variants() const;
  // What was, or will be, published of them; null before the quality is known.
  const v1::Variant* Chosen(const std::vector<v1::Variant>& variants) const;

 private:
  JobRecord record_;
  std::vector<ViewedTask> tasks_;
};

}  // namespace shiftadd::coordinator

#endif  // SHIFTADD_SERVICES_COORDINATOR_JOB_VIEW_H_
