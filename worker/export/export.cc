#include "worker/export/export.h"

#include <unistd.h>

#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "services/base/status_macros.h"

namespace shiftadd {
namespace {

namespace fs = std::filesystem;

absl::Status CheckTarget(const std::string& dir) {
  std::error_code error;
  const fs::file_status status = fs::status(dir, error);
  if (!fs::exists(status)) return absl::OkStatus();
  if (!fs::is_directory(status)) {
    return absl::FailedPreconditionError(
        absl::StrCat(dir, ": is a file, expected a new or an empty folder"));
  }
  if (fs::is_empty(dir, error) && !error) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(dir, ": is not empty, expected a new or an empty folder"));
}

}  // namespace

absl::Status ExportPackage(PackageWeights* weights, const ExportOptions& options,
                           const std::string& dir) {
  SA_RETURN_IF_ERROR(CheckTarget(dir));
  fs::path target = fs::absolute(dir).lexically_normal();
  if (!target.has_filename()) target = target.parent_path();
  const std::string aside = absl::StrCat(target.string(), ".partial-", getpid());
  std::error_code error;
  fs::remove_all(aside, error);
  fs::create_directories(aside, error);
  if (error) return absl::PermissionDeniedError(absl::StrCat(aside, ": ", error.message()));
  absl::Status status = options.format == ExportFormat::kHuggingFace
                            ? WriteHuggingFace(weights, options.shard_bytes, aside)
                            : WriteGguf(weights, aside);
  if (status.ok()) {
    fs::rename(aside, target, error);  // replaces an empty folder, and nothing else
    if (error) {
      status = absl::FailedPreconditionError(absl::StrCat(target.string(), ": ", error.message()));
    }
  }
  if (!status.ok()) fs::remove_all(aside, error);
  return status;
}

}  // namespace shiftadd
