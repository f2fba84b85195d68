#include "worker/tasks/task_runner.h"

#include <chrono>
#include <exception>
#include <new>
#include <string>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "worker/machine/gpu.h"
#include "worker/reference/torch_seam.h"
#include "worker/tasks/job_session.h"
#include "worker/tasks/patient_blob_store.h"
#include "worker/tasks/tasks.h"

namespace shiftadd {

namespace {

// Adds what the GPU uses until this ends.
class EnergyMeter {
 public:
  EnergyMeter(Device device, prometheus::Counter* counter) : counter_(*counter) {
    if (device == Device::kCuda) start_ = GpuJoules();
  }
  ~EnergyMeter() {
    if (!start_.has_value()) return;
    const std::optional<double> end = GpuJoules();
    if (end.has_value() && *end > *start_) counter_.Increment(*end - *start_);
  }
  EnergyMeter(const EnergyMeter&) = delete;
  EnergyMeter& operator=(const EnergyMeter&) = delete;

 private:
  prometheus::Counter& counter_;
  std::optional<double> start_;
};

}  // namespace

class TaskRunner::Impl {
 public:
  Impl(TaskRunnerOptions options, BlobStore* store, WorkerMetrics* metrics)
      : options_(std::move(options)), store_(store), metrics_(metrics) {}

  absl::StatusOr<v1::TaskResult> Run(const v1::Task& task, TaskControl* control);
  std::optional<HeldActivations> held() const {
    if (session_ == nullptr || session_->held_block() < 0) return std::nullopt;
    return HeldActivations{session_->job_id(), static_cast<uint32_t>(session_->held_block())};
  }
  const absl::Status& device_fault() const { return device_fault_; }
  std::vector<std::string> lost_blobs() const { return store_.lost(); }

 private:
  absl::Status Dispatch(const v1::Task& task, TaskControl* control, v1::TaskResult* result);
  absl::Status EnsureSession(const v1::Task& task);

  const TaskRunnerOptions options_;
  PatientBlobStore store_;
  WorkerMetrics* const metrics_;
  std::unique_ptr<JobSession> session_;
  absl::Status device_fault_;
};

absl::Status TaskRunner::Impl::EnsureSession(const v1::Task& task) {
  // INGEST always looks at the files anew.
  const bool fresh = task.kind() == v1::TASK_KIND_INGEST;
  if (!fresh && session_ != nullptr && session_->job_id() == task.context().job_id())
    return absl::OkStatus();
  session_.reset();
  SA_ASSIGN_OR_RETURN(session_, JobSession::Open(task.context(), options_, &store_, metrics_));
  return absl::OkStatus();
}

absl::Status TaskRunner::Impl::Dispatch(const v1::Task& task, TaskControl* control,
                                        v1::TaskResult* result) {
  JobSession* const session = session_.get();
  switch (task.payload_case()) {
    case v1::Task::kIngest: {
      SA_ASSIGN_OR_RETURN(*result->mutable_ingest(),
                          RunIngest(task.context(), task.ingest(), session));
      return absl::OkStatus();
    }
    case v1::Task::kHash: {
      SA_ASSIGN_OR_RETURN(*result->mutable_hash(), RunHash(task.hash(), session, control));
      return absl::OkStatus();
    }
    case v1::Task::kCalibrate: {
      SA_ASSIGN_OR_RETURN(*result->mutable_calibrate(),
                          RunCalibrate(task.context(), task.calibrate(), session, control));
      return absl::OkStatus();
    }
    case v1::Task::kForward: {
      SA_ASSIGN_OR_RETURN(*result->mutable_forward(), RunForward(task.forward(), session, control));
      return absl::OkStatus();
    }
    case v1::Task::kProfile: {
      SA_ASSIGN_OR_RETURN(*result->mutable_profile(),
                          RunProfile(task.context(), task.profile(), session, control));
      return absl::OkStatus();
    }
    case v1::Task::kEnds: {
      SA_ASSIGN_OR_RETURN(*result->mutable_ends(), RunEnds(task.context(), session));
      return absl::OkStatus();
    }
    case v1::Task::kEvaluate: {
      SA_ASSIGN_OR_RETURN(*result->mutable_evaluate(),
                          RunEvaluate(task.evaluate(), session, control));
      return absl::OkStatus();
    }
    case v1::Task::kMeasure: {
      SA_ASSIGN_OR_RETURN(*result->mutable_measure(),
                          RunMeasure(task.context(), task.measure(), session, control));
      return absl::OkStatus();
    }
    case v1::Task::kRefine: {
      SA_ASSIGN_OR_RETURN(*result->mutable_refine(),
                          RunRefine(task.context(), task.refine(), session, control));
      return absl::OkStatus();
    }
    case v1::Task::PAYLOAD_NOT_SET:
      break;
  }
  return absl::UnimplementedError(
      absl::StrCat("task ", task.task_id(), ": this worker does not know its kind ",
                   v1::TaskKind_Name(task.kind()), "; is it older than the coordinator?"));
}

absl::StatusOr<v1::TaskResult> TaskRunner::Impl::Run(const v1::Task& task, TaskControl* control) {
  const auto start = std::chrono::steady_clock::now();
  v1::TaskResult result;
  absl::Status status;
  metrics_->TakeStages();  // of a task that failed
  store_.Begin(&control->cancelled);
  const absl::Cleanup end = [this] { store_.End(); };
  const EnergyMeter energy(options_.device, metrics_->energy);
  try {
    status = EnsureSession(task);
    if (status.ok()) status = Dispatch(task, control, &result);
  } catch (const std::bad_alloc&) {
    status = absl::ResourceExhaustedError(
        absl::StrCat("out of memory in ", v1::TaskKind_Name(task.kind()), "; the worker may use ",
                     options_.memory_bytes >> 20, " MiB"));
  } catch (const std::exception& e) {
    // Of a library. One task fails, not the worker; LibTorch's carry a trace behind their first
    // line.
    const std::string what = e.what();
    status = absl::InternalError(
        absl::StrCat(v1::TaskKind_Name(task.kind()), ": ", what.substr(0, what.find('\n'))));
  }
  if (!status.ok()) {
    session_.reset();  // Nothing half-done is kept.
    if (options_.device == Device::kCuda && !absl::IsCancelled(status)) {
      device_fault_ = Annotate(CheckCuda(), "the GPU is lost");
      if (!device_fault_.ok()) status = Annotate(status, device_fault_.message());
    }
    return status;
  }
  for (const auto& [stage, seconds] : metrics_->TakeStages())
    (*result.mutable_stage_seconds())[stage] = seconds;
  result.set_seconds(
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  return result;
}

TaskRunner::TaskRunner(TaskRunnerOptions options, BlobStore* store, WorkerMetrics* metrics)
    : impl_(std::make_unique<Impl>(std::move(options), store, metrics)) {}
TaskRunner::~TaskRunner() = default;

absl::StatusOr<v1::TaskResult> TaskRunner::Run(const v1::Task& task, TaskControl* control) {
  return impl_->Run(task, control);
}
std::optional<HeldActivations> TaskRunner::held() const { return impl_->held(); }
std::vector<std::string> TaskRunner::lost_blobs() const { return impl_->lost_blobs(); }
absl::Status TaskRunner::device_fault() const { return impl_->device_fault(); }

}  // namespace shiftadd
