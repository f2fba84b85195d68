// What the coordinator needs of the packager.
#ifndef SHIFTADD_SERVICES_COORDINATOR_PUBLISHER_H_
#define SHIFTADD_SERVICES_COORDINATOR_PUBLISHER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shiftadd/v1/package.pb.h"

namespace shiftadd::coordinator {

// Thread-safe. UNAVAILABLE and DEADLINE_EXCEEDED: try again later; anything else is final.
class Publisher {
 public:
  virtual ~Publisher() = default;
  // The manifest's digest. Publishing the same content again is a no-op.
  virtual absl::StatusOr<std::string> Publish(const v1::PublishPackageRequest& request) = 0;
  // As GetPackage of package.proto; NOT_FOUND names the reference.
  virtual absl::StatusOr<v1::Package> GetPackage(const std::string& reference) = 0;
  // Stores a document about a package; the same one again is a no-op.
  virtual absl::Status Attach(const std::string& reference, const std::string& media_type,
                              const std::string& document_json) = 0;
  // Keeps blobs from being collected while their job may need them.
  virtual absl::Status Pin(const std::string& owner, const std::vector<std::string>& digests) = 0;
  virtual absl::Status Unpin(const std::string& owner) = 0;
  // Bytes of a blob; NOT_FOUND names it.
  virtual absl::StatusOr<uint64_t> BlobSize(const std::string& digest) = 0;
};

}  // namespace shiftadd::coordinator

#endif  // SHIFTADD_SERVICES_COORDINATOR_PUBLISHER_H_
