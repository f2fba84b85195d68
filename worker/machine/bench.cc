#include "worker/machine/bench.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <vector>

#include "services/base/status_macros.h"
#include "worker/machine/gpu.h"

namespace shiftadd {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kWarmUps = 3;
constexpr int kLeastRuns = 5;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Json JoulesJson(const std::optional<double>& joules) {
  return joules.has_value() ? Json(*joules) : Json(nullptr);
}

}  // namespace

EnergyMeter::EnergyMeter(bool gpu) : gpu_(gpu) {
  if (gpu) {
    if (!GpuJoules().has_value()) fault_ = "the GPU has no energy meter that NVML can read";
  } else {
    fault_ = cpu_.fault();
  }
}

std::optional<double> EnergyMeter::Joules() {
  if (!fault_.empty()) return std::nullopt;
  return gpu_ ? GpuJoules() : cpu_.Joules();
}

absl::StatusOr<TimedRuns> TimeRuns(const std::function<absl::Status()>& run, double seconds,
                                   EnergyMeter* meter) {
  for (int i = 0; i < kWarmUps; ++i) SA_RETURN_IF_ERROR(run());
  std::vector<double> times;
  const std::optional<double> before = meter->Joules();
  const double start = Now();
  for (double now = start; now - start < seconds || times.size() < kLeastRuns;) {
    SA_RETURN_IF_ERROR(run());
    const double end = Now();
    times.push_back(end - now);
    now = end;
  }
  const std::optional<double> after = meter->Joules();
  TimedRuns out;
  out.runs = static_cast<int64_t>(times.size());
  if (before.has_value() && after.has_value() && *after > *before)
    out.joules = (*after - *before) / static_cast<double>(out.runs);
  const auto middle = times.begin() + static_cast<int64_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  out.median_seconds = *middle;
  return out;
}

uint64_t ResidentBytes() {
  std::ifstream in("/proc/self/statm");
  uint64_t size = 0, resident = 0;
  in >> size >> resident;
  return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

DeviceUse::DeviceUse(bool gpu) {
  if (!gpu) return;
  const std::optional<uint64_t> before = GpuBytesInUse();
  known_ = before.has_value();
  before_ = before.value_or(0);
}

std::optional<uint64_t> DeviceUse::Bytes() const {
  const std::optional<uint64_t> now = known_ ? GpuBytesInUse() : std::nullopt;
  if (!now.has_value()) return std::nullopt;
  return *now > before_ ? *now - before_ : 0;
}

std::string ToJson(const BenchFigures& f, const BenchOptions& options) {
  const double prompt = f.prompt.median_seconds;
  const Json json = {
      {"device", f.device},
      {"how", f.how},
      {"context", options.context},
      {"milliseconds_per_token", f.token.median_seconds * 1e3},
      {"tokens_timed", f.token.runs},
      {"prompt_tokens_per_second",
       prompt > 0 ? static_cast<double>(options.context) / prompt : 0.0},
      {"prompts_timed", f.prompt.runs},
      {"joules_per_token", JoulesJson(f.token.joules)},
      {"joules_per_prompt", JoulesJson(f.prompt.joules)},
      {"energy_fault", f.energy_fault},
      {"weight_bytes", f.weight_bytes},
      {"resident_bytes", f.resident_bytes},
      {"device_bytes", f.device_bytes.has_value() ? Json(*f.device_bytes) : Json(nullptr)},
      {"fp16_bytes", f.fp16_bytes},
      {"fp16_layer_bytes", f.fp16_layer_bytes}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace shiftadd
