// Immutable bytes named by their SHA-256, and scratch bytes of running jobs.
#ifndef SHIFTADD_SERVICES_BLOB_BLOB_STORE_H_
#define SHIFTADD_SERVICES_BLOB_BLOB_STORE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"

namespace shiftadd {

// Takes one blob piece by piece. Not thread-safe. Destroyed without Commit it leaves nothing
// behind.
class BlobWriter {
 public:
  virtual ~BlobWriter() = default;
  // After an error the writer is dead: drop it.
  virtual absl::Status Append(absl::string_view data) = 0;
  // Makes the blob visible and durable, and gives its digest. If `expected_digest` is not empty and
  // differs from the bytes' own: DATA_LOSS naming both, and nothing is stored.
  virtual absl::StatusOr<std::string> Commit(const std::string& expected_digest) = 0;
};

// What a listing tells of a blob.
struct BlobInfo {
  std::string digest;
  uint64_t bytes = 0;
  absl::Time modified;  // when it was last Put (also if it was there already)
};

// Thread-safe; safe for several processes on one store.
// Errors of every method: INVALID_ARGUMENT: malformed digest, job or reference. NOT_FOUND names the
// digest. DATA_LOSS: the bytes do not match it. RESOURCE_EXHAUSTED: no space (nothing is left
// behind). `scratch` blobs live under their job's name and go with it. A job's name is 1 to 128 of
// [A-Za-z0-9._-], the first no dot.
class BlobStore {
 public:
  virtual ~BlobStore() = default;

  // Durable when it returns (temp file, fsync, rename). Storing bytes that are there is cheap and
  // OK, renews their time and mends them if they were damaged.
  virtual absl::StatusOr<std::string> Put(absl::string_view data) = 0;
  // The same for bytes that come in pieces.
  virtual absl::StatusOr<std::unique_ptr<BlobWriter>> NewWriter() = 0;
  // The whole blob, its digest verified.
  virtual absl::StatusOr<std::string> Get(const std::string& digest) = 0;
  // Size in bytes.
  virtual absl::StatusOr<uint64_t> Stat(const std::string& digest) = 0;
  // Sets its time to now, as a Put of the same bytes would: a collection then spares it for a
  // while. Gives its size.
  virtual absl::StatusOr<uint64_t> Renew(const std::string& digest) = 0;
  // `length` bytes from `offset` (fewer at the end). Not verified. OUT_OF_RANGE: `offset` beyond
  // the end.
  virtual absl::StatusOr<std::string> ReadRange(const std::string& digest, uint64_t offset,
                                                uint64_t length) = 0;
  // OK if it is not there.
  virtual absl::Status Delete(const std::string& digest) = 0;
  // Deletes it unless it was Put at or after `cutoff`; atomic against a concurrent Put of the same
  // bytes. True if it was there and is gone now.
  virtual absl::StatusOr<bool> DeleteIfOlder(const std::string& digest, absl::Time cutoff) = 0;
  // Digests in lexical order.
  virtual absl::StatusOr<std::vector<std::string>> List() = 0;
  // The same with sizes and times.
  virtual absl::StatusOr<std::vector<BlobInfo>> ListInfo() = 0;

  virtual absl::StatusOr<std::string> PutScratch(const std::string& job,
                                                 absl::string_view data) = 0;
  virtual absl::StatusOr<std::string> GetScratch(const std::string& job,
                                                 const std::string& digest) = 0;
  // One blob of the job. OK if it is not there.
  virtual absl::Status DeleteScratchBlob(const std::string& job, const std::string& digest) = 0;
  // OK if there is none.
  virtual absl::Status DeleteScratch(const std::string& job) = 0;

  // Tags of the OCI index: name:tag -> manifest descriptor. The packager alone writes them. The
  // reference is kept whole in the annotation org.opencontainers.image.ref.name, so skopeo names it
  // oci:DIR:NAME:TAG.
  virtual absl::Status PutTag(const std::string& reference, const nlohmann::json& descriptor) = 0;
  // OK if it is not there.
  virtual absl::Status DeleteTag(const std::string& reference) = 0;
  virtual absl::StatusOr<std::map<std::string, nlohmann::json>> ListTags() = 0;
};

// What a store is opened for. Of one that is only read (a disk that is mounted so, say) nothing is
// made, locked or touched; what would write is FAILED_PRECONDITION.
enum class StoreUse { kReadAndWrite, kRead };

// An OCI image layout: DIR/oci-layout, index.json, blobs/sha256/…, and DIR/scratch/JOB/…. Made if
// absent; NOT_FOUND where it is to be read. FAILED_PRECONDITION: of another version.
absl::StatusOr<std::unique_ptr<BlobStore>> OpenOciLayout(const std::string& dir,
                                                         StoreUse use = StoreUse::kReadAndWrite);

// http:// or https://HOST[:PORT]/PREFIX: an OCI registry (registry_store.h). Anything else: a
// layout's folder. A registry's credentials are read from the file that SHIFTADD_REGISTRY_AUTH_FILE
// names (one line, USER:PASSWORD), its CA certificate (PEM) from SHIFTADD_REGISTRY_CA_FILE.
absl::StatusOr<std::unique_ptr<BlobStore>> OpenBlobStore(const std::string& location,
                                                         StoreUse use = StoreUse::kReadAndWrite);
// Whether a location means a registry.
bool IsRegistry(absl::string_view location);

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_BLOB_BLOB_STORE_H_
