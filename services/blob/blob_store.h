// Immutable bytes named by their SHA-256, and scratch bytes of running jobs.
#ifndef SHIFTADD_SERVICES_BLOB_BLOB_STORE_H_
#define SHIFTADD_SERVICES_BLOB_BLOB_STORE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace shiftadd {

// Thread-safe; safe for several processes on one store. NOT_FOUND names the digest; DATA_LOSS: the bytes do not match
// it; RESOURCE_EXHAUSTED: no space (nothing is left behind). `scratch` blobs live under their job's name and go with it.
class BlobStore {
 public:
  virtual ~BlobStore() = default;

  // Durable when it returns (temp file, fsync, rename). Storing bytes that are there is cheap and OK.
  virtual absl::StatusOr<std::string> Put(absl::string_view data) = 0;
  // The whole blob, its digest verified.
  virtual absl::StatusOr<std::string> Get(const std::string& digest) = 0;
  virtual absl::StatusOr<uint64_t> Stat(const std::string& digest) = 0;
  // `length` bytes from `offset` (fewer at the end). Not verified.
  virtual absl::StatusOr<std::string> ReadRange(const std::string& digest, uint64_t offset, uint64_t length) = 0;
  // OK if it is not there.
  virtual absl::Status Delete(const std::string& digest) = 0;
  virtual absl::StatusOr<std::vector<std::string>> List() = 0;

  virtual absl::StatusOr<std::string> PutScratch(const std::string& job, absl::string_view data) = 0;
  virtual absl::StatusOr<std::string> GetScratch(const std::string& job, const std::string& digest) = 0;
  virtual absl::Status DeleteScratch(const std::string& job) = 0;

  // Tags of the OCI index: name:tag -> manifest descriptor. The packager alone writes them.
  virtual absl::Status PutTag(const std::string& reference, const nlohmann::json& descriptor) = 0;
  virtual absl::Status DeleteTag(const std::string& reference) = 0;
};

// An OCI image layout: DIR/oci-layout, index.json, blobs/sha256/…, and DIR/scratch/JOB/…. Made if absent.
absl::StatusOr<std::unique_ptr<BlobStore>> OpenOciLayout(const std::string& dir);

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_BLOB_BLOB_STORE_H_
