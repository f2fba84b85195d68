// Where a worker's time goes, by phase.
#ifndef SHIFTADD_WORKER_TASKS_PHASES_H_
#define SHIFTADD_WORKER_TASKS_PHASES_H_

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include <chrono>
#include <map>
#include <string>
#include <utility>

namespace shiftadd {

// One kind of work: shiftadd_worker_phase_seconds_total{phase=NAME} over the worker's life, and the
// seconds of the task that runs. Not thread-safe but for Count: only a task's own thread adds to
// it.
class Phase {
 public:
  Phase(prometheus::Family<prometheus::Counter>* family, const std::string& name)
      : name_(name), counter_(&family->Add({{"phase", name}})) {}
  const std::string& name() const { return name_; }
  void Add(double seconds) {
    counter_->Increment(seconds);
    task_seconds_ += seconds;
  }
  // Work that is left of a task while the next one runs.
  void Count(double seconds) { counter_->Increment(seconds); }
  // What was added since the last call.
  double Take() { return std::exchange(task_seconds_, 0.0); }

 private:
  std::string name_;
  prometheus::Counter* counter_;
  double task_seconds_ = 0;
};

// The worker's metrics; what Prometheus calls them is said beside each. Outlived by its registry.
// The phases are not thread-safe, the rest is.
struct WorkerMetrics {
  explicit WorkerMetrics(prometheus::Registry* registry);
  // The seconds of every phase since the last call, without those at 0: TaskResult.stage_seconds.
  std::map<std::string, double> TakeStages();

 private:
  prometheus::Family<prometheus::Counter>* phases_;  // before the phases, which are made from it

 public:
  Phase load;                   // reading weights and blobs
  Phase forward;                // running the model
  Phase backward;               // gradients, for guided Hessians
  Phase hessian;                // summing, finishing and factoring Hessians
  Phase fit;                    // starts and group loops of the quantizer
  Phase sweep;                  // its coordinate descent and refits
  Phase measure;                // packing and errors of candidates, scores of models
  Phase store;                  // waiting for blobs to be stored, in part beside the next task
  prometheus::Counter* tokens;  // shiftadd_worker_calibration_tokens_total
  prometheus::Counter* layers;  // shiftadd_worker_layers_quantized_total
  prometheus::Family<prometheus::Counter>* tasks;  // shiftadd_worker_tasks_total{kind,outcome}
  // shiftadd_worker_energy_joules_total{device}: of the GPU, or of a CPU (RAPL), by its meter,
  // while tasks ran; no series where there is no meter.
  prometheus::Family<prometheus::Counter>* energy;
  prometheus::Gauge* busy;  // shiftadd_worker_busy: 1 while a task runs
};

// Adds the time from construction to destruction to a phase.
class PhaseTimer {
 public:
  explicit PhaseTimer(Phase& phase) : phase_(phase) {}
  ~PhaseTimer() {
    phase_.Add(std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count());
  }
  PhaseTimer(const PhaseTimer&) = delete;
  PhaseTimer& operator=(const PhaseTimer&) = delete;

 private:
  Phase& phase_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_TASKS_PHASES_H_
