#include "worker/tasks/phases.h"

namespace shiftadd {

WorkerMetrics::WorkerMetrics(prometheus::Registry* registry) {
  auto& phases = prometheus::BuildCounter()
                     .Name("shiftadd_worker_phase_seconds_total")
                     .Help("Seconds of work by phase")
                     .Register(*registry);
  load = &phases.Add({{"phase", "load"}});
  forward = &phases.Add({{"phase", "forward"}});
  hessian = &phases.Add({{"phase", "hessian"}});
  quantize = &phases.Add({{"phase", "quantize"}});
  store = &phases.Add({{"phase", "store"}});
  tokens = &prometheus::BuildCounter()
                .Name("shiftadd_worker_calibration_tokens_total")
                .Help("Calibration tokens written or read")
                .Register(*registry)
                .Add({});
  layers = &prometheus::BuildCounter()
                .Name("shiftadd_worker_layers_quantized_total")
                .Help("Layers quantized at every candidate width")
                .Register(*registry)
                .Add({});
  tasks = &prometheus::BuildCounter()
               .Name("shiftadd_worker_tasks_total")
               .Help("Tasks ended, by kind and outcome")
               .Register(*registry);
  busy = &prometheus::BuildGauge()
              .Name("shiftadd_worker_busy")
              .Help("1 while a task runs")
              .Register(*registry)
              .Add({});
}

}  // namespace shiftadd
