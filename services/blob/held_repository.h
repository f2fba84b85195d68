// Blobs of one repository, each held by a tagged manifest of its own. Internal to services/blob.
#ifndef SHIFTADD_SERVICES_BLOB_HELD_REPOSITORY_H_
#define SHIFTADD_SERVICES_BLOB_HELD_REPOSITORY_H_

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"
#include "services/blob/blob_store.h"
#include "services/blob/registry_client.h"

namespace shiftadd::blob {

// Thread-safe. The client must outlive it. Errors as of BlobStore.
class HeldRepository {
 public:
  HeldRepository(RegistryClient* client, std::string name)
      : client_(client), name_(std::move(name)) {}

  const std::string& name() const { return name_; }

  absl::Status Put(const std::string& digest, absl::string_view data);
  // Makes a blob that is in the repository one of the store, put now.
  // `again`: it may be held already; the manifest that held it goes.
  absl::Status Hold(const std::string& digest, uint64_t bytes, bool again);
  absl::StatusOr<std::string> Get(const std::string& digest);
  absl::StatusOr<BlobInfo> Info(const std::string& digest);
  // False if it was not there, or was put at or after `cutoff`.
  absl::StatusOr<bool> Release(const std::string& digest, absl::Time cutoff);
  absl::StatusOr<std::vector<std::string>> List();
  absl::Status ReleaseAll();

  // A small manifest under a tag: no layer, only annotations.
  absl::Status PutNote(const std::string& tag, const std::map<std::string, std::string>& notes);
  // NOT_FOUND if there is no such tag.
  absl::StatusOr<nlohmann::json> GetNote(const std::string& tag);
  // Takes the tag away from what it names; with `and_manifest` that goes too, unless another tag
  // names it. One caller a repository.
  absl::Status RemoveTag(const std::string& tag, bool and_manifest);

 private:
  absl::Status PutTagged(const std::string& tag, const nlohmann::json& layers,
                         const std::map<std::string, std::string>& annotations);
  absl::Status NeedEmptyBlob();
  absl::StatusOr<bool> IsTagged(const std::string& manifest_digest);
  absl::Status NotFound(const std::string& digest) const;

  RegistryClient* const client_;
  const std::string name_;
  // One upload of the empty blob at a time: of two, docker-registry can lose the first's in
  // between.
  std::mutex empty_blob_mutex_;
  bool has_empty_blob_ = false;
};

}  // namespace shiftadd::blob

#endif  // SHIFTADD_SERVICES_BLOB_HELD_REPOSITORY_H_
