#include "worker/machine/device_meter.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "absl/time/clock.h"
#include "worker/machine/gpu.h"

namespace shiftadd {
namespace {

uint64_t LeastOf(uint64_t a, uint64_t b) { return b == 0 ? a : std::min(a, b); }

std::optional<uint64_t> ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  uint64_t all = 0, resident = 0;
  if (!(file >> all >> resident)) return std::nullopt;
  return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

// User and system time of this process.
double ProcessorSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

DeviceMeter::DeviceMeter(bool gpu, const std::string& root)
    : gpu_(gpu), root_(root), cpu_(root), last_(absl::Now()), last_seconds_(ProcessorSeconds()) {
  if (gpu) {
    if (const auto found = FindGpu(); found.has_value()) memory_ = found->memory_bytes;
    first_joules_ = GpuJoules().value_or(0);
    return;
  }
  const Machine machine = FindMachine(root);
  memory_ = LeastOf(machine.memory_bytes, machine.cgroup_bytes);
  cores_ = std::max(1, machine.usable_cores);
  if (machine.cgroup_cores > 0) cores_ = std::min(cores_, machine.cgroup_cores);
  if (cpu_.fault().empty()) first_joules_ = last_joules_ = cpu_.Joules();
}

DeviceSample DeviceMeter::Sample() { return gpu_ ? SampleGpu() : SampleCpu(); }

DeviceSample DeviceMeter::SampleGpu() {
  DeviceSample sample;
  sample.memory_used = GpuBytesInUse();
  if (memory_ > 0) sample.memory = memory_;
  sample.utilization = GpuUtilization();
  sample.watts = GpuWatts();
  if (const auto joules = GpuJoules(); joules.has_value()) {
    sample.joules = std::max(0.0, *joules - first_joules_);
  }
  return sample;
}

DeviceSample DeviceMeter::SampleCpu() {
  DeviceSample sample;
  sample.memory_used = ResidentBytes();
  if (memory_ > 0) sample.memory = memory_;
  const absl::Time now = absl::Now();
  const double elapsed = absl::ToDoubleSeconds(now - last_);
  const double seconds = ProcessorSeconds();
  if (elapsed > 0) {
    sample.utilization = std::clamp((seconds - last_seconds_) / elapsed / cores_, 0.0, 1.0);
  }
  if (cpu_.fault().empty()) {
    const double joules = cpu_.Joules();
    sample.joules = joules - first_joules_;
    if (elapsed > 0) sample.watts = (joules - last_joules_) / elapsed;
    last_joules_ = joules;
  }
  last_ = now;
  last_seconds_ = seconds;
  return sample;
}

}  // namespace shiftadd
