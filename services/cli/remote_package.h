// One package's place outside the cluster: a repository of a registry, or a tag of an image layout.
#ifndef SHIFTADD_SERVICES_CLI_REMOTE_PACKAGE_H_
#define SHIFTADD_SERVICES_CLI_REMOTE_PACKAGE_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shiftadd::cli {

// Thread-safe. Blobs are verified when they are read.
class RemotePackage {
 public:
  virtual ~RemotePackage() = default;
  // `place`: http[s]://HOST[:PORT]/REPOSITORY[:TAG] (TAG: else that of `reference`), or a folder,
  // where `reference` (name:tag) names the package.
  static absl::StatusOr<std::unique_ptr<RemotePackage>> Open(const std::string& place,
                                                             const std::string& reference);

  virtual absl::StatusOr<bool> Has(const std::string& digest) = 0;
  virtual absl::StatusOr<std::string> Read(const std::string& digest) = 0;
  virtual absl::Status Write(const std::string& digest, const std::string& data) = 0;
  // `tag`: or a digest.
  virtual absl::StatusOr<std::string> ReadManifest(const std::string& tag) = 0;
  // A manifest or index (its mediaType says which), after what it names. `tag` may be empty.
  virtual absl::Status WriteManifest(const std::string& manifest, const std::string& tag) = 0;

  virtual const std::string& tag() const = 0;
  virtual const std::string& name() const = 0;  // for messages
};

}  // namespace shiftadd::cli

#endif  // SHIFTADD_SERVICES_CLI_REMOTE_PACKAGE_H_
