#include "services/coordinator/progress.h"

#include <algorithm>
#include <map>
#include <set>

#include "services/coordinator/job_view.h"
#include "services/coordinator/refine_plan.h"
#include "services/rpc/proto_duration.h"

namespace shiftadd::coordinator {
namespace {

// Shares of a typical job's work; replaced by observed seconds for the remaining time.
const std::map<v1::TaskKind, double>& Weights() {
  static const auto* weights = new std::map<v1::TaskKind, double>{
      {v1::TASK_KIND_INGEST, 0.01},   {v1::TASK_KIND_HASH, 0.02},    {v1::TASK_KIND_CALIBRATE, 0.2},
      {v1::TASK_KIND_FORWARD, 0.1},   {v1::TASK_KIND_PROFILE, 0.53}, {v1::TASK_KIND_ENDS, 0.01},
      {v1::TASK_KIND_EVALUATE, 0.18}, {v1::TASK_KIND_MEASURE, 0.3},  {v1::TASK_KIND_REFINE, 0.6}};
  return *weights;
}

struct Kind {
  double total = 0;    // tasks that there are or will be
  double done = 0;     // with the parts of running ones
  double seconds = 0;  // of finished ones
  int finished = 0;
  uint32_t open = 0;
};

double Expected(v1::TaskKind kind, const v1::Job& job) {
  if (!job.spec().evaluated_package().empty()) {
    const bool own = kind == v1::TASK_KIND_HASH || kind == v1::TASK_KIND_CALIBRATE ||
                     kind == v1::TASK_KIND_EVALUATE;
    return own ? 1 : 0;
  }
  if (!job.spec().parent_job_id().empty()) {  // it took the rest over
    const bool own = kind == v1::TASK_KIND_CALIBRATE || kind == v1::TASK_KIND_EVALUATE;
    return own ? HeldOutParts(job.spec()) : 0;
  }
  switch (kind) {
    case v1::TASK_KIND_CALIBRATE:
      return CalibrationParts(job.spec()) + HeldOutParts(job.spec());
    case v1::TASK_KIND_PROFILE:
      return job.plan().blocks();
    case v1::TASK_KIND_EVALUATE:
      return HeldOutParts(job.spec()) * (Refines(job.spec()) ? 2 : 1);
    case v1::TASK_KIND_REFINE:
      return ExpectedRefineTasks(job);
    case v1::TASK_KIND_FORWARD:
      // Without guided Hessians only where several workers share the job.
      return job.spec().recipe().hessian() == v1::HESSIAN_GUIDED ? CalibrationParts(job.spec()) : 0;
    case v1::TASK_KIND_MEASURE:
      return job.spec().criterion() == v1::CRITERION_MEASURED ? job.plan().blocks() : 0;
    default:
      return 1;
  }
}

v1::TaskKind KindOfState(v1::JobState state, const std::map<v1::TaskKind, Kind>& kinds) {
  switch (state) {
    case v1::JOB_STATE_INGESTING:
      return v1::TASK_KIND_INGEST;
    case v1::JOB_STATE_CALIBRATING:
    case v1::JOB_STATE_ALLOCATING:  // a child's held-out windows
      return v1::TASK_KIND_CALIBRATE;
    case v1::JOB_STATE_PROFILING:
      return kinds.at(v1::TASK_KIND_MEASURE).open > 0 ? v1::TASK_KIND_MEASURE
                                                      : v1::TASK_KIND_PROFILE;
    case v1::JOB_STATE_EVALUATING:
      return v1::TASK_KIND_EVALUATE;
    case v1::JOB_STATE_REFINING:
      return v1::TASK_KIND_REFINE;
    default:
      return v1::TASK_KIND_UNSPECIFIED;
  }
}

std::map<v1::TaskKind, Kind> Count(const v1::Job& job, const std::vector<TaskRecord>& tasks,
                                   absl::Time now, std::set<std::string>* workers) {
  std::map<v1::TaskKind, Kind> kinds;
  for (const auto& [kind, weight] : Weights()) kinds[kind];
  std::map<v1::TaskKind, double> present;
  for (const TaskRecord& t : tasks) {
    // A repair makes what has been counted as done.
    if (t.inherited() || t.kind == v1::TASK_KIND_REPAIR) continue;
    Kind& k = kinds[t.kind];
    ++present[t.kind];
    if (t.state == TaskState::kDone) {
      ++k.done;
      ++k.finished;
      k.seconds += std::max(0.0, absl::ToDoubleSeconds(t.end_time - t.lease_time));
    } else {
      ++k.open;
    }
    if (t.state == TaskState::kRunning && t.deadline >= now) {
      k.done += std::clamp(t.progress, 0.0, 0.99);
      workers->insert(t.worker);
    }
  }
  for (auto& [kind, k] : kinds) k.total = std::max(Expected(kind, job), present[kind]);
  return kinds;
}

// Reading headers and hashing say nothing about how fast a model runs.
bool TellsPace(v1::TaskKind kind) {
  return kind != v1::TASK_KIND_INGEST && kind != v1::TASK_KIND_HASH && kind != v1::TASK_KIND_ENDS;
}

// Seconds of work left: by each kind's own pace, by the pace of the others where none has finished
// yet, by the plan's estimate while nothing has. Negative while there is no plan either.
double WorkLeft(const v1::Job& job, const std::map<v1::TaskKind, Kind>& kinds, double ratio) {
  double seconds = 0, weight = 0;
  for (const auto& [kind, k] : kinds) {
    if (k.finished == 0 || k.total == 0 || !TellsPace(kind)) continue;
    seconds += k.seconds;
    weight += Weights().at(kind) * k.finished / k.total;
  }
  if (weight <= 0) {
    return job.has_plan() ? job.plan().estimated_seconds() * (1 - ratio) : -1;
  }
  double left = 0;
  for (const auto& [kind, k] : kinds) {
    const double open = std::max(0.0, k.total - k.done);
    if (open == 0) continue;
    left += open * (k.finished > 0 ? k.seconds / k.finished
                                   : seconds / weight * Weights().at(kind) / k.total);
  }
  return left;
}

}  // namespace

v1::Progress ComputeProgress(const v1::Job& job, const std::vector<TaskRecord>& tasks,
                             absl::Time now) {
  v1::Progress p;
  std::set<std::string> workers;
  auto kinds = Count(job, tasks, now, &workers);
  double done = 0, all = 0;
  for (const auto& [kind, k] : kinds) {
    const double weight = Weights().count(kind) ? Weights().at(kind) : 0;
    if (k.total == 0) continue;
    all += weight;
    done += weight * std::min(1.0, k.done / k.total);
  }
  p.set_ratio(job.state() == v1::JOB_STATE_SUCCEEDED ? 1.0 : std::min(0.999, done / all));
  const Kind& current = kinds[KindOfState(job.state(), kinds)];
  p.set_tasks_done(static_cast<uint32_t>(current.finished));
  p.set_tasks_total(static_cast<uint32_t>(current.total));
  p.set_layers_total(static_cast<uint32_t>(job.plan().layers_size()));
  std::map<uint32_t, uint32_t> layers_of_block;
  for (const v1::LayerPlan& layer : job.plan().layers()) ++layers_of_block[layer.block()];
  uint32_t layers = 0;
  for (const TaskRecord& t : tasks) {
    if (t.kind == v1::TASK_KIND_PROFILE && t.state == TaskState::kDone) {
      layers += layers_of_block[t.ordinal];
    }
  }
  p.set_layers_done(layers);
  p.set_workers(static_cast<uint32_t>(workers.size()));
  if (!IsTerminal(job.state())) {
    kinds.erase(v1::TASK_KIND_UNSPECIFIED);
    const double left = WorkLeft(job, kinds, p.ratio());
    const double share = left / std::max<double>(1, static_cast<double>(workers.size()));
    if (left >= 0) *p.mutable_eta() = rpc::ToProto(absl::Seconds(static_cast<int64_t>(share)));
  }
  return p;
}

}  // namespace shiftadd::coordinator
