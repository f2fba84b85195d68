#include "worker/export/export.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"
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

// A folder that is being written is locked by who writes it.
class LockedFolder {
 public:
  explicit LockedFolder(const std::string& path)
      : fd_(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)),
        locked_(fd_ >= 0 && flock(fd_, LOCK_EX | LOCK_NB) == 0) {}
  LockedFolder(const LockedFolder&) = delete;
  LockedFolder& operator=(const LockedFolder&) = delete;
  ~LockedFolder() {
    if (fd_ >= 0) close(fd_);
  }
  bool locked() const { return locked_; }

 private:
  const int fd_;
  const bool locked_;
};

// What exports to the same folder left that were killed.
void RemoveLeftovers(const std::string& prefix) {
  std::error_code error;
  std::vector<fs::path> leftovers;
  for (const auto& entry : fs::directory_iterator(fs::path(prefix).parent_path(), error)) {
    absl::string_view pid = entry.path().native();
    if (!absl::ConsumePrefix(&pid, prefix) || pid.empty() ||
        pid.find_first_not_of("0123456789") != absl::string_view::npos) {
      continue;
    }
    if (LockedFolder(entry.path().string()).locked()) leftovers.push_back(entry.path());
  }
  for (const fs::path& path : leftovers) fs::remove_all(path, error);
}

// Nobody has looked into the package's tokenizer.json before.
absl::Status WriteFormat(PackageWeights* weights, const ExportOptions& options,
                         const std::string& folder) {
  try {
    return options.format == ExportFormat::kHuggingFace
               ? WriteHuggingFace(weights, options.shard_bytes, folder)
               : WriteGguf(weights, folder);
  } catch (const nlohmann::json::exception& e) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the package's tokenizer.json: expected a Hugging Face tokenizer: ", e.what()));
  }
}

}  // namespace

absl::Status ExportPackage(PackageWeights* weights, const ExportOptions& options,
                           const std::string& dir) {
  SA_RETURN_IF_ERROR(CheckTarget(dir));
  std::error_code error;
  fs::path target = fs::absolute(dir, error).lexically_normal();
  if (error) {
    return absl::InvalidArgumentError(absl::StrCat(
        "dir: expected a new or an empty folder, found \"", dir, "\": ", error.message()));
  }
  if (!target.has_filename()) target = target.parent_path();
  const std::string prefix = target.string() + ".partial-";
  const std::string aside = absl::StrCat(prefix, getpid());
  RemoveLeftovers(prefix);
  fs::remove_all(aside, error);
  fs::create_directories(aside, error);
  if (error) return absl::PermissionDeniedError(absl::StrCat(aside, ": ", error.message()));
  const LockedFolder ours(aside);
  absl::Status status = WriteFormat(weights, options, aside);
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
