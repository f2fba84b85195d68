// How the speed of a model is measured, the same way for a package (shiftadd-server --bench) and
// for its full-precision source (shiftadd-worker --bench), which `shiftadd bench` sets side by
// side.
//
// A token is timed from the call to its id on the host, one sequence, greedy, behind `context`
// tokens; a prompt is `context` tokens, from the call to the first id. Each is repeated for
// `seconds` after a warm-up; the median counts. Joules are what the device's own meter counted
// meanwhile (NVML: the whole GPU; RAPL: the processor packages), idle power and other users
// included, over the number of repetitions.
#ifndef SHIFTADD_WORKER_MACHINE_BENCH_H_
#define SHIFTADD_WORKER_MACHINE_BENCH_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "worker/machine/machine.h"

namespace shiftadd {

struct BenchOptions {
  int64_t context = 512;
  double seconds = 3;
};

// Joules of what computes; not thread-safe.
class EnergyMeter {
 public:
  explicit EnergyMeter(bool gpu);
  // Nothing if it cannot be read: fault() says why.
  std::optional<double> Joules();
  const std::string& fault() const { return fault_; }

 private:
  const bool gpu_;
  std::string fault_;
  CpuMeter cpu_;
};

struct TimedRuns {
  int64_t runs = 0;
  double median_seconds = 0;
  std::optional<double> joules;  // of one run
};
// Repeats `run` after three runs that do not count.
absl::StatusOr<TimedRuns> TimeRuns(const std::function<absl::Status()>& run, double seconds,
                                   EnergyMeter* meter);

struct BenchFigures {
  std::string device;  // "cpu", or the GPU
  std::string how;     // what ran: kernels, number format, threads
  TimedRuns token, prompt;
  std::string energy_fault;
  uint64_t weight_bytes = 0;             // of the model, as they lie in memory
  uint64_t resident_bytes = 0;           // of the process
  std::optional<uint64_t> device_bytes;  // of the GPU, beyond what was in use before
  uint64_t fp16_bytes = 0;               // of the whole model, at 2 bytes a parameter
  uint64_t fp16_layer_bytes = 0;         // of its linear layers
};

// The process's resident memory.
uint64_t ResidentBytes();

// Bytes of the GPU that came into use while this lives, by anybody.
class DeviceUse {
 public:
  explicit DeviceUse(bool gpu);
  std::optional<uint64_t> Bytes() const;  // nothing without NVML, or without `gpu`

 private:
  bool known_ = false;
  uint64_t before_ = 0;
};

// One line of JSON.
std::string ToJson(const BenchFigures& figures, const BenchOptions& options);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MACHINE_BENCH_H_
