// From the flags of `submit` to a JobSpec.
#ifndef SHIFTADD_SERVICES_CLI_SUBMIT_SPEC_H_
#define SHIFTADD_SERVICES_CLI_SUBMIT_SPEC_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "shiftadd/v1/job.pb.h"

namespace shiftadd::cli {

struct SubmitFlags {
  std::string source;
  std::optional<double> bits;  // exactly one of these three
  std::optional<double> stored_bits;
  std::string bytes;  // "4GiB"
  std::string name;
  std::string recipe_file;  // at most one of these two
  std::string method;
  std::string calibration_file;
  std::string eval_file;
  uint32_t calibration_sequences = 0;
  uint32_t calibration_length = 0;
  uint32_t eval_sequences = 0;
  uint32_t eval_length = 0;
  std::vector<std::string> labels;  // KEY=VALUE
  int32_t priority = 0;
  bool any_device = false;
  bool dry_run = false;
  bool watch = false;
};

// A local path becomes an absolute file:// URI and must exist (NOT_FOUND); file://, oci: and hf: go
// as they are.
absl::StatusOr<std::string> SourceUri(const std::string& source);

// Everything but the digests of uploaded texts. INVALID_ARGUMENT names the flag.
absl::StatusOr<v1::JobSpec> MakeSpec(const SubmitFlags& flags);

// The dry run's answer: layers, bytes, memory, time, and whether the budget can be met.
std::string FormatPlan(const v1::Job& job);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_SUBMIT_SPEC_H_
