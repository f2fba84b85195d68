// One package's place outside the cluster: a repository of a registry, or a tag of an image layout.
#ifndef SHIFTADD_SERVICES_PACKAGING_REMOTE_PACKAGE_H_
#define SHIFTADD_SERVICES_PACKAGING_REMOTE_PACKAGE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shiftadd::packaging {

// Thread-safe. Blobs are verified when they are read.
class RemotePackage {
 public:
  virtual ~RemotePackage() = default;
  // Nothing is written to a source. Of a folder without an image layout: a source is NOT_FOUND, a
  // target gets an empty one.
  enum class Use { kSource, kTarget };
  // `place`: http[s]://HOST[:PORT]/REPOSITORY[:TAG] (TAG: else that of `reference`), or a folder,
  // where `reference` (name:tag or name@digest) names the package. Nothing is asked of a registry
  // yet. INVALID_ARGUMENT: malformed.
  static absl::StatusOr<std::unique_ptr<RemotePackage>> Open(const std::string& place,
                                                             const std::string& reference, Use use);
  // INVALID_ARGUMENT as Open, before anything is opened or made.
  static absl::Status CheckPlace(const std::string& place);

  // Whether it is there with this size. `verify`: and with this digest, for which it is read. What
  // is damaged in a layout is not there; in a registry, which would not take it again, DATA_LOSS.
  virtual absl::StatusOr<bool> Has(const std::string& digest, uint64_t size, bool verify) = 0;
  virtual absl::StatusOr<std::string> Read(const std::string& digest) = 0;
  virtual absl::Status Write(const std::string& digest, const std::string& data) = 0;
  // `tag`: or a digest. NOT_FOUND: the place has none such.
  virtual absl::StatusOr<std::string> ReadManifest(const std::string& tag) = 0;
  // Every tag of the repository, or of the package's name in the layout; also those of what refers
  // to packages.
  virtual absl::StatusOr<std::vector<std::string>> ListTags() = 0;
  // A manifest or index (its mediaType says which), after what it names. `tag` may be empty.
  virtual absl::Status WriteManifest(const std::string& manifest, const std::string& tag) = 0;

  virtual const std::string& tag() const = 0;   // or the digest that `reference` named
  virtual const std::string& name() const = 0;  // for messages
};

// Documents about a package by artifact type, each type's in the order of the index there.
using Referring = std::map<std::string, std::vector<std::string>>;
// Those of `types`, each read once; none if nothing refers to the package `digest` there.
absl::StatusOr<Referring> ReadReferring(RemotePackage* remote, const std::string& digest,
                                        const std::vector<std::string>& types);

}  // namespace shiftadd::packaging

#endif  // SHIFTADD_SERVICES_PACKAGING_REMOTE_PACKAGE_H_
