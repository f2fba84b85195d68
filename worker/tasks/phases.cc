#include "worker/tasks/phases.h"

namespace shiftadd {

WorkerMetrics::WorkerMetrics(prometheus::Registry* registry)
    : phases_(&prometheus::BuildCounter()
                   .Name("shiftadd_worker_phase_seconds_total")
                   .Help("Seconds of work by phase")
                   .Register(*registry)),
      load(phases_, "load"),
      forward(phases_, "forward"),
      backward(phases_, "backward"),
      hessian(phases_, "hessian"),
      fit(phases_, "fit"),
      sweep(phases_, "sweep"),
      measure(phases_, "measure"),
      store(phases_, "store") {
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
  energy = &prometheus::BuildCounter()
                .Name("shiftadd_worker_energy_joules_total")
                .Help("Joules of the device while tasks ran, by its own meter, whoever used them")
                .Register(*registry);
  busy = &prometheus::BuildGauge()
              .Name("shiftadd_worker_busy")
              .Help("1 while a task runs")
              .Register(*registry)
              .Add({});
}

std::map<std::string, double> WorkerMetrics::TakeStages() {
  std::map<std::string, double> stages;
  for (Phase* phase : {&load, &forward, &backward, &hessian, &fit, &sweep, &measure, &store}) {
    if (const double seconds = phase->Take(); seconds > 0) stages[phase->name()] = seconds;
  }
  return stages;
}

}  // namespace shiftadd
