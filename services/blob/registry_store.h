// BlobStore over an OCI registry.
//
// Under PREFIX: the repository PREFIX holds the blobs, PREFIX/scratch/HASH those of one job (HASH:
// of its name), PREFIX/NAME the packages as other tools see them. A registry collects what no
// manifest names, so each blob has one: the tag blob-HEX, whose manifest names the blob as its only
// layer and says in an annotation when it was last Put. A blob is in the store while that tag
// stands: deleting moves no bytes, and a Put at the same moment only makes the tag again. The bytes
// go with the registry's own collection (`docker-registry garbage-collect`; without
// --delete-untagged, which in 2.8 also takes manifests that only an index names).
//
// A tag of ours (PutTag) is the tag tag-HASH in PREFIX, whose manifest's annotations hold the
// reference and the descriptor. If the descriptor's manifest is in the store, its blobs are mounted
// into PREFIX/NAME and it is pushed there as TAG, so that skopeo names it
// docker://HOST/PREFIX/NAME:TAG.
#ifndef SHIFTADD_SERVICES_BLOB_REGISTRY_STORE_H_
#define SHIFTADD_SERVICES_BLOB_REGISTRY_STORE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "services/blob/blob_store.h"
#include "services/blob/registry_client.h"

namespace shiftadd {

// `url`: http[s]://HOST[:PORT]/PREFIX. INVALID_ARGUMENT: another form, or a prefix that is no
// repository name. Nothing is asked of the registry yet.
absl::StatusOr<std::unique_ptr<BlobStore>> OpenRegistry(const std::string& url,
                                                        const blob::RegistryOptions& options);

// What SHIFTADD_REGISTRY_AUTH_FILE and SHIFTADD_REGISTRY_CA_FILE say (blob_store.h).
absl::StatusOr<blob::RegistryOptions> RegistryOptionsFromEnvironment();

// INVALID_ARGUMENT: a location with "://" whose scheme is neither http nor https, or whose port is
// none. Folders are not looked at.
absl::Status CheckLocation(const std::string& location);
// INVALID_ARGUMENT unless registries take it: lower-case parts of letters and digits, with ., _, __
// or several - inside, between slashes.
absl::Status CheckRepositoryName(const std::string& name);

}  // namespace shiftadd

#endif  // SHIFTADD_SERVICES_BLOB_REGISTRY_STORE_H_
