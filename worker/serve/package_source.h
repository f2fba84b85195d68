// Where a package comes from: the packager, or a blob store.
#ifndef SHIFTADD_WORKER_SERVE_PACKAGE_SOURCE_H_
#define SHIFTADD_WORKER_SERVE_PACKAGE_SOURCE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/serve/packed_model.h"

namespace shiftadd {

struct PackageLocation {
  std::string reference;  // name, name:tag or name@sha256:…; a bare name means name:latest
  std::string packager;   // host:port, or
  // An OCI image layout, or a registry: http[s]://HOST[:PORT]/PREFIX, where the repository
  // PREFIX/NAME holds it, be it pushed or kept there by a packager, or PREFIX itself does.
  std::string package_dir;
  // Optional: another of either that is looked into before the packager is asked for a blob.
  std::string blobs;
  std::string digest;  // if set: this version, whatever the reference names now
  // Optional: an Ed25519 public key (PEM). A package that it has not signed is refused.
  std::string signer_pem;
};

struct ResolvedPackage {
  std::string name;    // name:tag, or name@digest as it was asked for
  std::string digest;  // of the manifest
  std::string config_json;
  int64_t created = 0;  // Unix seconds; 0: unknown
  int64_t bytes = 0;    // of all blobs; 0: unknown
  BlobReader read;      // verified; may be called from several threads; keeps its connection open
};

// NOT_FOUND lists the packages that are there; DATA_LOSS: a blob's bytes do not match its digest;
// UNAVAILABLE: no packager answers; PERMISSION_DENIED: the signer that is asked for has not signed
// it; INVALID_ARGUMENT: a malformed reference or manifest.
absl::StatusOr<ResolvedPackage> ResolvePackage(const PackageLocation& location);

// The digest alone. NOT_FOUND: the reference names nothing.
absl::StatusOr<std::string> ResolveDigest(const PackageLocation& location);

// Splits and checks a reference; a bare name gets the tag latest. Lower-case letters, digits and .
// _ - / in names.
absl::StatusOr<std::string> NormalReference(absl::string_view reference);

}  // namespace shiftadd

#endif  // SHIFTADD_WORKER_SERVE_PACKAGE_SOURCE_H_
