#include "worker/machine/device_metrics.h"

#include <utility>

namespace shiftadd {
namespace {

prometheus::Family<prometheus::Gauge>* NewGauges(prometheus::Registry* r, const char* name,
                                                 const char* help) {
  return &prometheus::BuildGauge().Name(name).Help(help).Register(*r);
}

std::optional<double> AsDouble(const std::optional<uint64_t>& value) {
  if (!value.has_value()) return std::nullopt;
  return static_cast<double>(*value);
}

}  // namespace

DeviceMetrics::DeviceMetrics(prometheus::Registry* registry, DeviceMeter meter,
                             const std::string& device,
                             prometheus::Family<prometheus::Counter>* energy)
    : meter_(std::move(meter)), labels_({{"device", device}}), energy_(energy) {
  used_ = NewGauges(registry, "shiftadd_device_memory_used_bytes",
                    "Memory in use: of a GPU by all processes, of a CPU by this one.");
  memory_ = NewGauges(registry, "shiftadd_device_memory_bytes", "Memory that there is to be used.");
  utilization_ = NewGauges(registry, "shiftadd_device_utilization_ratio",
                           "How busy the device is, 0 to 1; of a CPU: this process's share of the "
                           "cores it may use, since the last scrape.");
  watts_ = NewGauges(registry, "shiftadd_device_power_watts",
                     "What the device draws, by its own meter, whoever uses it.");
}

void DeviceMetrics::Set(prometheus::Family<prometheus::Gauge>* family,
                        std::optional<double> value) {
  if (value.has_value()) family->Add(labels_).Set(*value);
}

void DeviceMetrics::Refresh() {
  const std::lock_guard<std::mutex> lock(mutex_);
  const DeviceSample sample = meter_.Sample();
  Set(used_, AsDouble(sample.memory_used));
  Set(memory_, AsDouble(sample.memory));
  Set(utilization_, sample.utilization);
  Set(watts_, sample.watts);
  if (energy_ == nullptr || !sample.joules.has_value()) return;
  prometheus::Counter& counter = energy_->Add(labels_);
  if (*sample.joules > counter.Value()) counter.Increment(*sample.joules - counter.Value());
}

}  // namespace shiftadd
