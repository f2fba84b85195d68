// The flags that say which texts a model is calibrated and measured on.
#ifndef SHIFTADD_SERVICES_CLI_TEXT_FLAGS_H_
#define SHIFTADD_SERVICES_CLI_TEXT_FLAGS_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "services/cli/context.h"
#include "shiftadd/v1/job.pb.h"

namespace shiftadd::cli {

struct CalibrationFlags {
  std::string file;  // empty = the model writes its own
  uint32_t sequences = 0;
  uint32_t length = 0;
};

struct EvaluationFlags {
  std::string file;
  uint32_t skip = 0;
  uint32_t sequences = 0;
  uint32_t length = 0;
};

// `flags` lives as long as the command.
void AddCalibrationFlags(CLI::App* command, CalibrationFlags* flags);
void AddEvaluationFlags(CLI::App* command, EvaluationFlags* flags);

// True if anything is said about the evaluation.
bool IsGiven(const EvaluationFlags& flags);

// Everything but the digests of texts. INVALID_ARGUMENT names the flag.
v1::Calibration MakeCalibration(const CalibrationFlags& flags);
absl::StatusOr<v1::Evaluation> MakeEvaluation(const EvaluationFlags& flags);

// The digest of a text that the packager has now, empty for no path; what it had already is not
// sent again.
absl::StatusOr<std::string> UploadText(const Context& context, const std::string& path);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_TEXT_FLAGS_H_
