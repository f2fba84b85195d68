// The device's meter as Prometheus reads it, alike in workers and servers.
#ifndef SHIFTADD_WORKER_MACHINE_DEVICE_METRICS_H_
#define SHIFTADD_WORKER_MACHINE_DEVICE_METRICS_H_

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include <mutex>
#include <string>

#include "worker/machine/device_meter.h"

namespace shiftadd {

// shiftadd_device_memory_used_bytes, …_memory_bytes, …_utilization_ratio and …_power_watts, each
// with the label `device` ("cpu" or "gpu"); what has no meter here has no series. Thread-safe.
class DeviceMetrics {
 public:
  // `energy` (may be null) counts the device's joules from now on, whoever used them. The registry
  // must outlive this.
  DeviceMetrics(prometheus::Registry* registry, DeviceMeter meter, const std::string& device,
                prometheus::Family<prometheus::Counter>* energy);
  // Before every scrape.
  void Refresh();

 private:
  void Set(prometheus::Family<prometheus::Gauge>* family, std::optional<double> value);

  std::mutex mutex_;
  DeviceMeter meter_;
  const prometheus::Labels labels_;
  prometheus::Family<prometheus::Counter>* const energy_;
  prometheus::Family<prometheus::Gauge>*used_, *memory_, *utilization_, *watts_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MACHINE_DEVICE_METRICS_H_
