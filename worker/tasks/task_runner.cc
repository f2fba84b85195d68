#include "worker/tasks/task_runner.h"

#include <chrono>
#include <exception>
#include <functional>
#include <new>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/base/fail_point.h"
#include "services/base/status_macros.h"
#include "worker/machine/gpu.h"
#include "worker/machine/machine.h"
#include "worker/reference/torch_seam.h"
#include "worker/tasks/job_session.h"
#include "worker/tasks/patient_blob_store.h"
#include "worker/tasks/tasks.h"

namespace shiftadd {

namespace {

// Adds what the device uses until this ends.
class EnergyMeter {
 public:
  EnergyMeter(Device device, prometheus::Family<prometheus::Counter>* counters)
      : gpu_(device == Device::kCuda), start_(Joules()) {
    // From the first task on, so that a meter that stands still is seen.
    if (start_.has_value()) counter_ = &counters->Add({{"device", gpu_ ? "gpu" : "cpu"}});
  }
  ~EnergyMeter() {
    if (counter_ == nullptr) return;
    const std::optional<double> end = Joules();
    if (end.has_value() && *end > *start_) counter_->Increment(*end - *start_);
  }
  EnergyMeter(const EnergyMeter&) = delete;
  EnergyMeter& operator=(const EnergyMeter&) = delete;

 private:
  std::optional<double> Joules() {
    if (gpu_) return GpuJoules();
    if (!cpu_.fault().empty()) return std::nullopt;
    return cpu_.Joules();
  }

  const bool gpu_;
  CpuMeter cpu_;
  const std::optional<double> start_;
  prometheus::Counter* counter_ = nullptr;
};

// `work`, with what it throws as a status.
absl::Status Guarded(v1::TaskKind kind, uint64_t memory_bytes,
                     const std::function<absl::Status()>& work) {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(absl::StrCat("out of memory in ", v1::TaskKind_Name(kind),
                                                     "; the worker may use ", memory_bytes >> 20,
                                                     " MiB"));
  } catch (const std::exception& e) {
    // Of a library. One task fails, not the worker; LibTorch's carry a trace behind their first
    // line.
    const std::string what = e.what();
    return absl::InternalError(
        absl::StrCat(v1::TaskKind_Name(kind), ": ", what.substr(0, what.find('\n'))));
  }
}

constexpr char kDevicePoint[] = "task.device";  // fails: the device is lost

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

class Storing : public StoringTask {
 public:
  Storing(v1::TaskKind kind, uint64_t memory_bytes, BlobStore* store, WorkerMetrics* metrics,
          TaskControl* control)
      : kind_(kind),
        memory_bytes_(memory_bytes),
        metrics_(*metrics),
        store_(std::make_shared<PatientBlobStore>(store)) {
    store_->Begin(&control->cancelled);
  }
  ~Storing() override {
    closing_ = nullptr;  // waits for what the store has in hand
    store_->End();       // the session has it until its next task
  }

  const absl::Status& status() const override { return status_; }
  std::vector<std::string> lost_blobs() const override { return store_->lost(); }

  absl::StatusOr<v1::TaskResult> Finish() override {
    SA_RETURN_IF_ERROR(status_);
    if (closing_ == nullptr) return result_;
    const Clock::time_point start = Clock::now();
    const absl::Status closed = Guarded(kind_, memory_bytes_, closing_);
    closing_ = nullptr;
    SA_RETURN_IF_ERROR(closed);
    const double seconds = SecondsSince(start);
    metrics_.store.Count(seconds);
    (*result_.mutable_stage_seconds())[metrics_.store.name()] += seconds;
    return result_;
  }

  // The work's.
  std::shared_ptr<PatientBlobStore> store() const { return store_; }
  v1::TaskResult* result() { return &result_; }
  Closing* closing() { return &closing_; }
  void Fail(absl::Status status) {
    closing_ = nullptr;
    status_ = std::move(status);
  }

 private:
  const v1::TaskKind kind_;
  const uint64_t memory_bytes_;
  WorkerMetrics& metrics_;
  const std::shared_ptr<PatientBlobStore> store_;
  v1::TaskResult result_;
  absl::Status status_;
  Closing closing_;
};

}  // namespace

class TaskRunner::Impl {
 public:
  Impl(TaskRunnerOptions options, BlobStore* store, WorkerMetrics* metrics)
      : options_(std::move(options)), store_(store), metrics_(metrics) {}

  std::unique_ptr<StoringTask> Begin(const v1::Task& task, TaskControl* control);
  std::optional<HeldActivations> held() const {
    if (session_ == nullptr || session_->held_block() < 0) return std::nullopt;
    return HeldActivations{session_->job_id(), static_cast<uint32_t>(session_->held_block())};
  }
  const absl::Status& device_fault() const { return device_fault_; }

 private:
  absl::Status Dispatch(const v1::Task& task, TaskControl* control, v1::TaskResult* result,
                        Closing* closing);
  absl::Status CheckDevice() const;  // after a failure
  absl::Status EnsureSession(const v1::Task& task, const std::shared_ptr<BlobStore>& store);

  const TaskRunnerOptions options_;
  BlobStore* const store_;
  WorkerMetrics* const metrics_;
  std::unique_ptr<JobSession> session_;
  absl::Status device_fault_;
};

absl::Status TaskRunner::Impl::EnsureSession(const v1::Task& task,
                                             const std::shared_ptr<BlobStore>& store) {
  // INGEST always looks at the files anew.
  const bool fresh = task.kind() == v1::TASK_KIND_INGEST;
  if (fresh || session_ == nullptr || session_->job_id() != task.context().job_id()) {
    session_.reset();
    SA_ASSIGN_OR_RETURN(session_, JobSession::Open(task.context(), options_, store_, metrics_));
  }
  session_->UseStore(store);
  return absl::OkStatus();
}

absl::Status TaskRunner::Impl::Dispatch(const v1::Task& task, TaskControl* control,
                                        v1::TaskResult* result, Closing* closing) {
  JobSession* const session = session_.get();
  switch (task.payload_case()) {
    case v1::Task::kIngest: {
      SA_ASSIGN_OR_RETURN(*result->mutable_ingest(),
                          RunIngest(task.context(), task.ingest(), session));
      return absl::OkStatus();
    }
    case v1::Task::kHash:
      return RunHash(task.hash(), session, control, result->mutable_hash(), closing);
    case v1::Task::kCalibrate: {
      SA_ASSIGN_OR_RETURN(*result->mutable_calibrate(),
                          RunCalibrate(task.context(), task.calibrate(), session, control));
      return absl::OkStatus();
    }
    case v1::Task::kForward:
      return RunForward(task.forward(), session, control, result->mutable_forward(), closing);
    case v1::Task::kProfile:
      return RunProfile(task.context(), task.profile(), session, control, result->mutable_profile(),
                        closing);
    case v1::Task::kEnds:
      return RunEnds(task.context(), session, result->mutable_ends(), closing);
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

absl::Status TaskRunner::Impl::CheckDevice() const {
  if (ReachFailPoint(kDevicePoint)) return absl::InternalError("it does not answer");
  return options_.device == Device::kCuda ? CheckCuda() : absl::OkStatus();
}

std::unique_ptr<StoringTask> TaskRunner::Impl::Begin(const v1::Task& task, TaskControl* control) {
  const Clock::time_point start = Clock::now();
  auto out =
      std::make_unique<Storing>(task.kind(), options_.memory_bytes, store_, metrics_, control);
  metrics_->TakeStages();  // of a task that failed
  const EnergyMeter energy(options_.device, metrics_->energy);
  absl::Status status = Guarded(task.kind(), options_.memory_bytes, [&]() -> absl::Status {
    SA_RETURN_IF_ERROR(EnsureSession(task, out->store()));
    SA_RETURN_IF_ERROR(Dispatch(task, control, out->result(), out->closing()));
    return ReachFailPoint(kDevicePoint) ? absl::InternalError("LibTorch: a CUDA error")
                                        : absl::OkStatus();
  });
  if (!status.ok()) {
    session_.reset();  // Nothing half-done is kept.
    if (!absl::IsCancelled(status)) device_fault_ = Annotate(CheckDevice(), "the GPU is lost");
    if (!device_fault_.ok()) status = Annotate(status, device_fault_.message());
    out->Fail(std::move(status));
    return out;
  }
  for (const auto& [stage, seconds] : metrics_->TakeStages())
    (*out->result()->mutable_stage_seconds())[stage] = seconds;
  out->result()->set_seconds(SecondsSince(start));
  return out;
}

TaskRunner::TaskRunner(TaskRunnerOptions options, BlobStore* store, WorkerMetrics* metrics)
    : impl_(std::make_unique<Impl>(std::move(options), store, metrics)) {}
TaskRunner::~TaskRunner() = default;

std::unique_ptr<StoringTask> TaskRunner::Begin(const v1::Task& task, TaskControl* control) {
  return impl_->Begin(task, control);
}
absl::StatusOr<v1::TaskResult> TaskRunner::Run(const v1::Task& task, TaskControl* control) {
  return Begin(task, control)->Finish();
}
std::optional<HeldActivations> TaskRunner::held() const { return impl_->held(); }
absl::Status TaskRunner::device_fault() const { return impl_->device_fault(); }

}  // namespace shiftadd
