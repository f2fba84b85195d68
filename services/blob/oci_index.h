// index.json of an OCI image layout: which tag points at which manifest.
#ifndef SHIFTADD_SERVICES_BLOB_OCI_INDEX_H_
#define SHIFTADD_SERVICES_BLOB_OCI_INDEX_H_

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace shiftadd::blob {

// NOT_FOUND: DIR holds no OCI image layout; FAILED_PRECONDITION: it is one of another version.
absl::Status CheckLayout(const std::string& dir);

// Writes DIR/oci-layout and an empty DIR/index.json if they are absent. FAILED_PRECONDITION if
// DIR/oci-layout is of another version.
absl::Status InitLayout(const std::string& dir, const std::string& temp_dir);

// The index, read and rewritten whole under a file lock; a rewrite is one rename. Entries that
// others wrote (without a reference name) are kept. Thread-safe and safe between processes.
// DATA_LOSS: index.json is not an OCI index, or one of
// its descriptors is none (the message names the entry and the field).
class OciIndex {
 public:
  OciIndex(const std::string& dir, std::string temp_dir);
  absl::Status Put(const std::string& reference, const nlohmann::json& descriptor);
  // OK if it is not there.
  absl::Status Delete(const std::string& reference);
  // Reference -> descriptor, without the reference's annotation.
  absl::StatusOr<std::map<std::string, nlohmann::json>> List() const;

 private:
  absl::StatusOr<nlohmann::json> Read() const;
  absl::Status Write(const nlohmann::json& index) const;

  const std::string path_;
  const std::string lock_path_;
  const std::string temp_dir_;
};

}  // namespace shiftadd::blob

#endif  // SHIFTADD_SERVICES_BLOB_OCI_INDEX_H_
