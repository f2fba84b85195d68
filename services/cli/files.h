// Small files, read and written whole.
#ifndef SHIFTADD_SERVICES_CLI_FILES_H_
#define SHIFTADD_SERVICES_CLI_FILES_H_

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shiftadd::cli {

// The whole file. NOT_FOUND; INVALID_ARGUMENT for a folder or more than `max_bytes`.
absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes);

// Through a temporary file in the same folder and a rename; what is no file is written to as it is.
absl::Status WriteFileAtomically(const std::string& path, const std::string& content);

// `path` from the root on. As it is where there is no current folder (any more), or it is empty:
// whoever opens it says so.
std::string AbsolutePath(const std::string& path);

// The last `lines` lines of a file, each after two spaces; empty if it cannot be read.
std::string TailOfFile(const std::string& path, int lines);

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_FILES_H_
