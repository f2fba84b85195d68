// Talks to the packager: a thin blocking client over PackageService.
#ifndef SHIFTADD_SERVICES_PACKAGING_PACKAGE_CLIENT_H_
#define SHIFTADD_SERVICES_PACKAGING_PACKAGE_CLIENT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "shiftadd/v1/package.pb.h"

namespace shiftadd {

struct PackageClientOptions {
  // Of one unary call. Transfers of blobs have no deadline of their own, but end when the
  // connection does.
  absl::Duration timeout = absl::Seconds(30);
};

// Thread-safe. Errors are those of package.proto; UNAVAILABLE says at which address no packager
// answers. Of several packagers that share a database one is used until it is away.
class PackageClient {
 public:
  virtual ~PackageClient() = default;
  // `addresses`: host:port, or several with commas. Connects on the first call.
  static std::unique_ptr<PackageClient> Connect(const std::string& addresses,
                                                const PackageClientOptions& options = {});

  // name:tag or name@digest -> digest of the manifest.
  virtual absl::StatusOr<std::string> Resolve(const std::string& reference) = 0;
  // With config_json, manifest_json and provenance_json.
  virtual absl::StatusOr<v1::Package> Get(const std::string& reference) = 0;
  // Every page.
  virtual absl::StatusOr<std::vector<v1::Package>> List() = 0;
  virtual absl::StatusOr<v1::Package> Publish(const v1::PublishPackageRequest& request) = 0;
  // A JSON object about the package (package.proto says which media types); gives its manifest's
  // digest.
  virtual absl::StatusOr<std::string> Attach(const std::string& reference,
                                             const std::string& media_type,
                                             const std::string& document_json) = 0;
  // `expected_digest`: what `target` must point at now; empty: anything. `owner`: whose it is from
  // now on, which admins may say.
  virtual absl::StatusOr<v1::Package> Tag(const std::string& source, const std::string& target,
                                          const std::string& expected_digest = "",
                                          const std::string& owner = "") = 0;
  virtual absl::Status Delete(const std::string& reference) = 0;
  // Of one reference; empty: of all.
  virtual absl::StatusOr<std::vector<v1::Replica>> ListReplicas(
      const std::string& reference = "") = 0;
  virtual absl::StatusOr<v1::CollectGarbageResponse> CollectGarbage(bool dry_run) = 0;
  // Replaces the expiry of what `owner` pins already; InfiniteFuture: the packager's default (7
  // days).
  virtual absl::Status Pin(const std::string& owner, const std::vector<std::string>& digests,
                           absl::Time expire_time = absl::InfiniteFuture()) = 0;
  // Everything that `owner` pins.
  virtual absl::Status Unpin(const std::string& owner) = 0;

  virtual absl::StatusOr<uint64_t> StatBlob(const std::string& digest) = 0;
  // The whole blob; DATA_LOSS unless its bytes match the digest.
  virtual absl::StatusOr<std::string> ReadBlob(const std::string& digest) = 0;
  // The same piece by piece, for blobs that should not be in memory at once. An error of `sink`
  // ends it.
  virtual absl::Status ReadBlob(const std::string& digest,
                                const std::function<absl::Status(absl::string_view)>& sink) = 0;
  // Gives the digest. Nothing is sent if the packager has the blob already.
  virtual absl::StatusOr<std::string> WriteBlob(absl::string_view data) = 0;
};

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_PACKAGING_PACKAGE_CLIENT_H_
