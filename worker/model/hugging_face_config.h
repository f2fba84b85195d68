// Reads a Hugging Face config.json: typed fields, and a fault for those that nobody read.
#ifndef SHIFTADD_WORKER_MODEL_HUGGING_FACE_CONFIG_H_
#define SHIFTADD_WORKER_MODEL_HUGGING_FACE_CONFIG_H_

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"
#include "worker/model/architecture_spec.h"

namespace shiftadd {

// Null counts as absent. Errors are INVALID_ARGUMENT, or UNIMPLEMENTED for what is well-formed but
// not supported; they name file, field, found and expected. Refers to `config`, which must live
// longer.
class HuggingFaceConfig {
 public:
  HuggingFaceConfig(const nlohmann::json& config, std::string file)
      : config_(config), file_(std::move(file)) {}

  const nlohmann::json* Find(const std::string& name) const;
  absl::Status Fault(const std::string& name, absl::string_view expected) const;
  absl::Status Unsupported(const std::string& name, absl::string_view supported) const;
  // Required if `fallback` is negative.
  absl::Status Int(const std::string& name, int64_t fallback, int64_t* out) const;
  // At least 1; required if `fallback` is.
  absl::Status Count(const std::string& name, int64_t fallback, int64_t* out) const;
  absl::Status Real(const std::string& name, double fallback, double* out) const;
  absl::Status Bool(const std::string& name, bool fallback, bool* out) const;
  // An id, a list of ids, or nothing.
  absl::Status Tokens(const std::string& name, std::vector<int64_t>* out) const;
  // UNIMPLEMENTED unless the field is absent or equal to `value`.
  absl::Status Only(const std::string& name, const nlohmann::json& value) const;
  // Both end tokens.
  absl::Status SpecialTokens(ArchitectureSpec* spec) const;
  // A field that stands there, was not read, and is not one of those that say nothing about the
  // arithmetic (names, training, generation) is UNIMPLEMENTED: what it changes would go unnoticed.
  absl::Status RefuseUnread() const;
  const std::string& file() const { return file_; }

 private:
  const nlohmann::json& config_;
  const std::string file_;
  mutable std::set<std::string> read_;
};

// rope_theta, and rope_scaling or rope_parameters (both only if they say the same). With
// "full_attention" and "sliding_attention" in them the second gives rope_local_theta.
absl::Status ReadRope(const HuggingFaceConfig& config, double default_theta,
                      ArchitectureSpec* spec);
// The same as ReadRope reads it.
void WriteRope(const ArchitectureSpec& spec, nlohmann::json* config);

// layer_types, if it stands there: local_blocks. True if it did.
absl::StatusOr<bool> ReadLayerTypes(const HuggingFaceConfig& config, ArchitectureSpec* spec);
nlohmann::json LayerTypes(const ArchitectureSpec& spec);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_MODEL_HUGGING_FACE_CONFIG_H_
