// What the device that computes is doing: its memory, how busy it is, what it draws.
#ifndef SHIFTADD_WORKER_MACHINE_DEVICE_METER_H_
#define SHIFTADD_WORKER_MACHINE_DEVICE_METER_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "worker/machine/machine.h"

namespace shiftadd {

// What has no meter here is absent.
struct DeviceSample {
  std::optional<uint64_t> memory_used;  // bytes: of a GPU by all processes, of a CPU by this one
  std::optional<uint64_t> memory;       // bytes that there are to be used
  std::optional<double> utilization;    // 0 to 1; of a CPU: this process's share of its cores
  std::optional<double> watts;          // of all that the device does
  std::optional<double> joules;         // since the meter was made
};

// Not thread-safe. `root` as for FindMachine.
class DeviceMeter {
 public:
  explicit DeviceMeter(bool gpu, const std::string& root = "");
  // A CPU's utilization and watts are means since the last call, or since the meter was made.
  DeviceSample Sample();

 private:
  DeviceSample SampleGpu();
  DeviceSample SampleCpu();

  const bool gpu_;
  const std::string root_;
  CpuMeter cpu_;
  uint64_t memory_ = 0;  // of the device
  double cores_ = 1;     // that the process may use
  double first_joules_ = 0;
  absl::Time last_;
  double last_seconds_ = 0, last_joules_ = 0;  // of the processor
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MACHINE_DEVICE_METER_H_
