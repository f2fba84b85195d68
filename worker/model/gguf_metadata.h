// Typed access to the key-value pairs of a GGUF file.
#ifndef SHIFTADD_WORKER_MODEL_GGUF_METADATA_H_
#define SHIFTADD_WORKER_MODEL_GGUF_METADATA_H_

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace shiftadd {

// Refers to `metadata`, which must live longer. Not thread-safe. Errors are INVALID_ARGUMENT and
// name file, key, found and expected.
class GgufMetadata {
 public:
  GgufMetadata(const nlohmann::json& metadata, std::string file)
      : metadata_(metadata), file_(std::move(file)) {}

  const nlohmann::json* Find(const std::string& key) const;
  // With a fallback a missing key is not an error; a wrong type always is.
  absl::StatusOr<int64_t> Int(const std::string& key, std::optional<int64_t> fallback) const;
  // GGUF keeps such numbers as float32: the result is the shortest decimal that gives the same
  // float32, so that 1e-05 comes back as 1e-05.
  absl::StatusOr<double> Real(const std::string& key, std::optional<double> fallback) const;
  absl::StatusOr<bool> Bool(const std::string& key, bool fallback) const;
  absl::StatusOr<std::string> String(const std::string& key,
                                     std::optional<std::string> fallback) const;
  // Every string must be UTF-8.
  absl::StatusOr<std::vector<std::string>> Strings(const std::string& key) const;

  absl::Status Fault(const std::string& key, absl::string_view expected) const;
  // UNIMPLEMENTED names the first key below `prefix` that nobody looked for, since it may change
  // the arithmetic; those that are off (0, false, "", "none") and those that say nothing of it may
  // stand.
  absl::Status RefuseUnread(const std::string& prefix) const;
  const std::string& file() const { return file_; }

 private:
  const nlohmann::json& metadata_;
  std::string file_;
  mutable std::set<std::string> read_;
};

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_GGUF_METADATA_H_
