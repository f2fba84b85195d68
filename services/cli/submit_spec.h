// From the flags of `submit` to a JobSpec.
#ifndef SHIFTADD_SERVICES_CLI_SUBMIT_SPEC_H_
#define SHIFTADD_SERVICES_CLI_SUBMIT_SPEC_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/cli/allocation_flags.h"
#include "services/cli/text_flags.h"
#include "shiftadd/v1/job.pb.h"

namespace shiftadd::cli {

struct SubmitFlags {
  std::string source;
  AllocationFlags allocation;
  std::string name;
  std::string recipe_file;  // at most one of these two
  std::string method;
  CalibrationFlags calibration;
  EvaluationFlags evaluation;
  std::vector<std::string> labels;  // KEY=VALUE
  int32_t priority = 0;
  bool any_device = false;
  bool dry_run = false;
  bool watch = false;
};

// A local path becomes an absolute file:// URI and must exist (NOT_FOUND); file://, oci: and hf: go
// as they are. INVALID_ARGUMENT names the GGUF file that is meant by a folder of such, and the path
// that is meant by one with "%20".
absl::StatusOr<std::string> SourceUri(const std::string& source);

// A recipe of nothing but a method, by its short name ("rtn"). INVALID_ARGUMENT lists the methods.
absl::StatusOr<v1::Recipe> MethodRecipe(const std::string& method);

// NAME[:TAG] of a package to be published. INVALID_ARGUMENT names `flag`.
absl::StatusOr<std::string> OutputName(const std::string& text, const std::string& flag);

// Everything but the digests of uploaded texts. INVALID_ARGUMENT names the flag.
absl::StatusOr<v1::JobSpec> MakeSpec(const SubmitFlags& flags);

// The dry run's answer: layers, bytes, memory, time, and whether the budget can be met.
std::string FormatPlan(const v1::Job& job);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_SUBMIT_SPEC_H_
