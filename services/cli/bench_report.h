// The figures of `shiftadd bench`: a package beside its full-precision source. Plain data and
// functions.
#ifndef SHIFTADD_SERVICES_CLI_BENCH_REPORT_H_
#define SHIFTADD_SERVICES_CLI_BENCH_REPORT_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "shiftadd/v1/package.pb.h"

namespace shiftadd::cli {

struct BenchReport {
  std::string reference, digest;
  uint64_t package_bytes = 0;  // all blobs and the config
  uint64_t layer_bytes = 0;    // the blobs of its linear layers
  // worker/machine/bench.h, as shiftadd-server and shiftadd-worker gave it.
  nlohmann::json package, source;  // `source` is null without one
  std::string source_path;
  std::string source_fault;  // why there is none
};

// Sizes, from the manifest and the config of a package.
void FillSizes(const v1::Package& package, BenchReport* report);

// The tokens of a measurement's context: `wanted`, else 512 or as many as the model has room for.
absl::StatusOr<int64_t> BenchContext(const v1::Package& package, std::optional<int64_t> wanted);

// Per cent by which `bytes` is less than `of`; 0 if `of` is 0.
double Reduction(uint64_t bytes, uint64_t of);

std::string FormatBench(const BenchReport& report);
// {"reference", "digest", "package_bytes", "layer_bytes", "reduction_percent": {"package",
// "layers", "weights_in_memory"}, "package", "source", "source_path", "speedup": {"token",
// "prompt"}, "joules_ratio"}; null where a side is missing.
nlohmann::ordered_json BenchJson(const BenchReport& report);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_BENCH_REPORT_H_
