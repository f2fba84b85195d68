// Where a worker's time goes, by phase.
#ifndef SHIFTADD_WORKER_TASKS_PHASES_H_
#define SHIFTADD_WORKER_TASKS_PHASES_H_

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include <chrono>

namespace shiftadd {

// The worker's metrics; see the table in README.md. Thread-safe, outlived by its registry.
struct WorkerMetrics {
  explicit WorkerMetrics(prometheus::Registry* registry);

  prometheus::Counter*
      load;  // shiftadd_worker_phase_seconds_total{phase="load"}: reading weights and blobs
  prometheus::Counter* forward;                    // running the model
  prometheus::Counter* hessian;                    // finishing and factoring Hessians
  prometheus::Counter* quantize;                   // fitting planes and scales
  prometheus::Counter* store;                      // writing blobs
  prometheus::Counter* tokens;                     // shiftadd_worker_calibration_tokens_total
  prometheus::Counter* layers;                     // shiftadd_worker_layers_quantized_total
  prometheus::Family<prometheus::Counter>* tasks;  // shiftadd_worker_tasks_total{kind,outcome}
  prometheus::Gauge* busy;                         // shiftadd_worker_busy: 1 while a task runs
};

// Adds the time from construction to destruction to a counter.
class PhaseTimer {
 public:
  explicit PhaseTimer(prometheus::Counter* counter) : counter_(counter) {}
  ~PhaseTimer() {
    counter_->Increment(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count());
  }
  PhaseTimer(const PhaseTimer&) = delete;
  PhaseTimer& operator=(const PhaseTimer&) = delete;

 private:
  prometheus::Counter* counter_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_TASKS_PHASES_H_
