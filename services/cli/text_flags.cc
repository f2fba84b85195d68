#include "services/cli/text_flags.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"
#include "services/cli/clients.h"
#include "services/cli/files.h"

namespace shiftadd::cli {
namespace {

constexpr size_t kMaxText = 1u << 30;

}  // namespace

void AddCalibrationFlags(CLI::App* command, CalibrationFlags* flags) {
  command->add_option(
      "--calibration", flags->file,
      "Calibration text (plain, or JSONL with \"text\"); else the model writes its own");
  command->add_option("--calibration-sequences", flags->sequences, "Sequences (default 32)");
  command->add_option("--calibration-length", flags->length, "Tokens a sequence (default 512)");
}

void AddEvaluationFlags(CLI::App* command, EvaluationFlags* flags) {
  command->add_option("--eval-text", flags->file,
                      "Evaluation text; else held-out sequences of the calibration's kind");
  command->add_option("--eval-skip", flags->skip,
                      "Windows of the evaluation text to leave out before the first (default 0)");
  command->add_option("--eval-sequences", flags->sequences, "Windows (default 8)");
  command->add_option("--eval-length", flags->length,
                      "Tokens a window (default the calibration's)");
}

bool IsGiven(const EvaluationFlags& flags) {
  return !flags.file.empty() || flags.skip > 0 || flags.sequences > 0 || flags.length > 0;
}

v1::Calibration MakeCalibration(const CalibrationFlags& flags) {
  v1::Calibration calibration;
  calibration.set_sequences(flags.sequences);
  calibration.set_length(flags.length);
  return calibration;
}

absl::StatusOr<v1::Evaluation> MakeEvaluation(const EvaluationFlags& flags) {
  if (flags.skip > 0 && flags.file.empty()) {
    return absl::InvalidArgumentError("--eval-skip: counts windows of a text: give --eval-text");
  }
  v1::Evaluation evaluation;
  evaluation.set_skip(flags.skip);
  evaluation.set_sequences(flags.sequences);
  evaluation.set_length(flags.length);
  return evaluation;
}

absl::StatusOr<std::string> UploadText(const Context& context, const std::string& path) {
  if (path.empty()) return "";
  SA_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxText));
  if (text.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": is empty"));
  SA_ASSIGN_OR_RETURN(const std::unique_ptr<PackageClient> packages, ConnectPackages(context));
  absl::StatusOr<std::string> digest = packages->WriteBlob(text);
  if (!digest.ok()) return Annotate(digest.status(), absl::StrCat("uploading ", path));
  return digest;
}

}  // namespace shiftadd::cli
